//! From one state to the next: `(state, action, moment) → (state, effects)`, and nothing else.
//!
//! `entry` has the card's part, `account` that of the password, `link` the connection's, `command` that of starting and stopping,
//! `balance` what follows from a balance or the end of a session, `history` that of the lists.

mod account;
mod balance;
mod command;
mod entry;
mod history;
mod link;
#[cfg(test)]
mod tests;

pub use balance::{cost, end_headline};
pub use link::HEARTBEAT;
pub(crate) use link::{CONNECT_WITHIN, SILENCE_MAX};

use crate::{
    action::{Action, Effect, Network, Target},
    api::{Answer, Call, Failure, Token},
    clock::Moment,
    model::{Dashboard, Entry, EntryMode, LoginNumber, Screen, State},
    notice::{NoticeNumber, Notices, RetriedBy, Retry},
};

/// Why a user who was logged in has to do so again.
const LOGIN_ENDED: &str =
    "You were signed out: this login has expired or was ended elsewhere. Please log in again.";

/// What to add where a session runs on without its page.
const RUNS_ON: &str = " Your session runs on and uses credits: log in to stop it.";

/// The page before anything has happened.
pub fn initial() -> State {
    State {
        screen: Screen::Entry(Entry::new(EntryMode::SignUp, None)),
        notices: Notices::default(),
        announcement: String::new(),
        is_online: true,
        login: LoginNumber::default(),
    }
}

/// What becomes of `state` when `action` happens at `moment`, and what is to be done.
pub fn reduce(mut state: State, action: Action, moment: Moment) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    step(&mut state, action, moment, &mut effects);
    (state, effects)
}

/// The dashboard with what it needs around it.
struct Context<'a> {
    dashboard: &'a mut Dashboard,
    notices: &'a mut Notices,
    announcement: &'a mut String,
    login: LoginNumber,
    moment: Moment,
    effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    /// Makes a call with the dashboard's token.
    fn call(&mut self, call: Call) {
        self.effects.push(Effect::Call(
            self.login,
            Some(self.dashboard.token.clone()),
            call,
        ));
    }

    /// Complains of `failure`, as the reason why `what` didn't work. Returns the notice's number.
    fn complain(&mut self, what: &str, failure: &Failure) -> NoticeNumber {
        let retry = failure.retry_after().map(|wait| Retry {
            at: self.moment.now.after(wait),
            by: RetriedBy::User,
        });
        self.notices
            .complain(format!("{what} {}", failure.sentence()), retry)
    }
}

fn step(state: &mut State, action: Action, moment: Moment, effects: &mut Vec<Effect>) {
    match action {
        Action::Opened(token) => {
            if let Some(token) = token {
                open_dashboard(state, token, moment, effects);
            }
        }
        Action::OpenedAtWrongAddress => {
            let text = "There is no page at that address. This is the start page.".to_owned();
            state.notices.tell(text, moment.now);
        }
        Action::TokenChanged(token) => token_changed(state, token, moment, effects),
        Action::NoticeDismissed(number) => state.notices.dismiss(number),
        Action::EscapePressed if state.notices.dismiss_newest() => {}
        // A log-out is answered when its login is over already.
        Action::Answered(_, Call::LogOut, answer) => {
            let text = "You are logged out in this browser, but the server could not be told: the login stays good there until it expires.";
            logged_out(state, &answer, text);
        }
        Action::Answered(_, Call::LogOutEverywhere, answer) => {
            let text = "You are logged out in this browser, but the server could not be told: your other devices may still be logged in.";
            logged_out(state, &answer, text);
        }
        Action::Answered(login, _, _) if login != state.login => {}
        Action::NetworkChanged(network) => {
            state.is_online = network == Network::Online;
            on_dashboard(state, moment, effects, |context| {
                link::network_changed(context, network);
            });
        }
        Action::LogOutPressed => log_out(state, Call::LogOut, effects),
        Action::LogOutEverywherePressed => log_out(state, Call::LogOutEverywhere, effects),
        action => {
            state.notices.expire(moment.now);
            match &mut state.screen {
                Screen::Entry(entry) => {
                    let token = entry::step(entry, action, state.login, moment, effects);
                    if let Some((token, user)) = token {
                        effects.push(Effect::Remember(token.clone()));
                        open_dashboard(state, token, moment, effects);
                        on_dashboard(state, moment, effects, |context| {
                            balance::whose(context, *user);
                        });
                    }
                }
                Screen::Dashboard(_) => {
                    let goes_on = on_dashboard(state, moment, effects, |context| {
                        dashboard_step(context, action)
                    });
                    if goes_on == Some(GoesOn::No) {
                        close_dashboard(state, LOGIN_ENDED, effects);
                    }
                }
            }
        }
    }
}

/// Whether the login is still good after a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    Yes,
    No,
}

fn dashboard_step(context: &mut Context, action: Action) -> GoesOn {
    match action {
        Action::Tick => {
            link::tick(context);
            command::tick(context);
            balance::tick(context);
        }
        Action::StartPressed => command::start(context),
        Action::StopPressed => command::stop(context),
        Action::TabChosen(tab) => history::choose(context, tab),
        Action::MorePressed => history::more(context),
        Action::RetryPressed => history::retry(context),
        Action::ReconnectPressed => link::reconnect_now(context),
        Action::AccountToggled => account::toggle(context),
        Action::PasswordChangeSubmitted(change) => account::submit(context, change),
        Action::EscapePressed if account::close(context) => {}
        Action::EndCardDismissed | Action::EscapePressed => {
            context.dashboard.is_end_card_up = false;
        }
        Action::SocketSaid(number, message) => link::said(context, number, &message),
        Action::SocketClosed(number, code, reason) => {
            return link::closed(context, number, code, reason);
        }
        Action::Shown => link::shown(context),
        Action::Left => link::left(context),
        Action::Answered(_, _, Err(failure)) if failure.ends_login() => return GoesOn::No,
        Action::Answered(_, call, answer) => answered(context, call, answer),
        // The rest belongs to the other screen, or was dealt with before.
        _ => {}
    }
    GoesOn::Yes
}

fn answered(context: &mut Context, call: Call, answer: Result<Answer, Failure>) {
    match (call, answer) {
        (_, Ok(Answer::User(user))) => balance::whose(context, *user),
        (_, Ok(Answer::Active(active))) => {
            balance::answered(context, active.balance);
            command::confirmed(context);
        }
        (Call::Active, Err(_)) => command::unconfirmed(context),
        (_, Ok(Answer::Started(started))) => command::started(context, &started),
        (_, Ok(Answer::Stopped(stopped))) => command::stopped(context, &stopped),
        (Call::Start(key) | Call::Stop(key), Err(failure)) => {
            command::failed(context, key, &failure);
        }
        (_, Ok(Answer::PasswordChanged)) => account::changed(context),
        (Call::ChangePassword(_), Err(failure)) => account::failed(context, &failure),
        (Call::Sessions(ask), answer) => history::sessions_answered(context, &ask, answer),
        (Call::Ledger(ask), answer) => history::ledger_answered(context, &ask, answer),
        // Whose token it is will be asked again with the next connection.
        _ => {}
    }
}

/// Runs `with` if the dashboard is on the screen.
fn on_dashboard<T>(
    state: &mut State,
    moment: Moment,
    effects: &mut Vec<Effect>,
    with: impl FnOnce(&mut Context) -> T,
) -> Option<T> {
    let Screen::Dashboard(dashboard) = &mut state.screen else {
        return None;
    };
    Some(with(&mut Context {
        dashboard,
        notices: &mut state.notices,
        announcement: &mut state.announcement,
        login: state.login,
        moment,
        effects,
    }))
}

fn open_dashboard(state: &mut State, token: Token, moment: Moment, effects: &mut Vec<Effect>) {
    let dashboard = Dashboard::new(token.clone(), moment.now);
    effects.push(Effect::Connect(dashboard.link.socket, token));
    effects.push(Effect::Focus(Target::Dashboard));
    state.screen = Screen::Dashboard(Box::new(dashboard));
    state.login = state.login.next();
    state.notices.clear();
    state.announcement.clear();
    on_dashboard(state, moment, effects, |context| {
        context.call(Call::WhoAmI);
        history::reload(context);
    });
}

/// Shows the card in place of the dashboard, with the reason, and with a warning if a session runs on.
/// Nothing that was said to this user stays for the next one.
fn close_dashboard(state: &mut State, reason: &str, effects: &mut Vec<Effect>) {
    let mut reason = reason.to_owned();
    if let Screen::Dashboard(dashboard) = &state.screen {
        if dashboard.session().is_some() {
            reason.push_str(RUNS_ON);
        }
        effects.extend([
            Effect::Disconnect,
            Effect::Forget(dashboard.token.clone()),
            Effect::Focus(Target::Email),
        ]);
    }
    state.screen = Screen::Entry(Entry::new(EntryMode::LogIn, Some(reason)));
    state.login = state.login.next();
    state.notices.clear();
    state.announcement.clear();
}

fn log_out(state: &mut State, call: Call, effects: &mut Vec<Effect>) {
    let Screen::Dashboard(dashboard) = &state.screen else {
        return;
    };
    effects.push(Effect::Call(
        state.login,
        Some(dashboard.token.clone()),
        call,
    ));
    close_dashboard(state, "You are logged out.", effects);
}

/// Complains with `text` if the server could not be told.
fn logged_out(state: &mut State, answer: &Result<Answer, Failure>, text: &str) {
    if let Err(failure) = answer
        && !failure.ends_login()
    {
        state.notices.complain(text.to_owned(), None);
    }
}

fn token_changed(
    state: &mut State,
    token: Option<Token>,
    moment: Moment,
    effects: &mut Vec<Effect>,
) {
    match (&state.screen, token) {
        (Screen::Dashboard(dashboard), Some(token)) if dashboard.token == token => {}
        (Screen::Dashboard(dashboard), Some(token)) => {
            let followed_from = dashboard.email.clone();
            open_dashboard(state, token, moment, effects);
            on_dashboard(state, moment, effects, |context| {
                context.dashboard.followed_from = followed_from;
                let text = "Another tab logged in. This one follows it.".to_owned();
                context.notices.tell(text, moment.now);
            });
        }
        (Screen::Entry(_), Some(token)) => {
            open_dashboard(state, token, moment, effects);
            let text = "You logged in in another tab.".to_owned();
            state.notices.tell(text, moment.now);
        }
        (Screen::Dashboard(_), None) => {
            close_dashboard(state, "You logged out in another tab.", effects);
        }
        (Screen::Entry(_), None) => {}
    }
}
