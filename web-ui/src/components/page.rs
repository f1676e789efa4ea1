//! The root: holds the state, runs the effects and passes actions to the reducer.

use gloo_events::EventListener;
use gloo_timers::callback::Timeout;
use schema::Millis;
use wasm_bindgen::JsCast as _;
use web_sys::{KeyboardEvent, StorageEvent, VisibilityState};
use yew::{Callback, Component, Context, Html, html};

use super::{
    dashboard::DashboardView, entry::EntryCard, header::Header, notices::NoticeList, title::Title,
};
use crate::{
    action::{Action, Effect, Network, Target},
    api::Token,
    browser::{self, fetch, focus_trail::FocusTrail, socket::Socket, storage},
    clock::LocalTime,
    countdown::Countdown,
    model::{Dashboard, Screen, State},
    reducer, wake, words,
};

/// The page.
pub struct Page {
    state: State,
    dispatch: Callback<Action>,
    socket: Option<Socket>,
    timer: Option<Timeout>,
    focus: Option<Target>,
    /// Where the keyboard's focus was before the page is drawn anew.
    focused: FocusTrail,
    title: Title,
    _listeners: Vec<EventListener>,
}

impl Component for Page {
    type Message = Action;
    type Properties = ();

    fn create(ctx: &Context<Self>) -> Self {
        let dispatch = ctx.link().callback(|action| action);
        dispatch.emit(Action::Opened(storage::token()));
        if browser::leave_wrong_address() {
            dispatch.emit(Action::OpenedAtWrongAddress);
        }
        Self {
            state: reducer::initial(),
            socket: None,
            timer: None,
            focus: None,
            focused: FocusTrail::default(),
            title: Title::default(),
            _listeners: listen(&dispatch),
            dispatch,
        }
    }

    fn update(&mut self, _ctx: &Context<Self>, action: Action) -> bool {
        let state = std::mem::replace(&mut self.state, reducer::initial());
        let (state, effects) = reducer::reduce(state, action, browser::moment());
        self.state = state;
        for effect in effects {
            self.run(effect);
        }
        self.plan_tick();
        self.focused = FocusTrail::here();
        true
    }

    fn view(&self, _ctx: &Context<Self>) -> Html {
        let now = browser::now();
        let body = match &self.state.screen {
            Screen::Entry(entry) => {
                let retry_in_s = entry
                    .retry_at
                    .map(|retry_at| words::seconds_up(retry_at.since(now)));
                html! { <EntryCard entry={entry.clone()} {retry_in_s} dispatch={self.dispatch.clone()} /> }
            }
            Screen::Dashboard(dashboard) => {
                html! { <DashboardView dashboard={(**dashboard).clone()} {now} dispatch={self.dispatch.clone()} /> }
            }
        };
        let link = match &self.state.screen {
            Screen::Entry(_) => None,
            Screen::Dashboard(dashboard) => Some((dashboard.link.clone(), dashboard.email.clone())),
        };
        let is_account_open = matches!(
            &self.state.screen,
            Screen::Dashboard(dashboard) if dashboard.account.is_some()
        );
        html! {
            <>
                <Header {link} {is_account_open} {now} is_online={self.state.is_online} dispatch={self.dispatch.clone()} />
                { body }
                <NoticeList notices={self.state.notices.list().to_vec()} {now} dispatch={self.dispatch.clone()} />
                <p class="unseen" role="status" aria-live="polite">{ self.state.announcement.clone() }</p>
            </>
        }
    }

    fn rendered(&mut self, _ctx: &Context<Self>, _first_render: bool) {
        match self.focus.take() {
            Some(target) => browser::focus(target),
            None => self.focused.pick_up(),
        }
        self.title
            .show(title(&self.state, browser::now()), browser::now());
    }
}

impl Page {
    fn run(&mut self, effect: Effect) {
        match effect {
            Effect::Call(login, token, call) => {
                let dispatch = self.dispatch.clone();
                wasm_bindgen_futures::spawn_local(async move {
                    let answer = fetch::send(&call, token.as_ref()).await;
                    dispatch.emit(Action::Answered(login, call, answer));
                });
            }
            Effect::Connect(number, token) => {
                self.socket = None;
                self.socket = Some(Socket::open(number, &token, &self.dispatch));
            }
            Effect::Disconnect => self.socket = None,
            Effect::Remember(token) => storage::remember(&token),
            Effect::Forget(token) => storage::forget(&token),
            Effect::Focus(target) => self.focus = Some(target),
        }
    }

    fn plan_tick(&mut self) {
        self.timer = wake::next_wake(&self.state, browser::now()).map(|wait| {
            let dispatch = self.dispatch.clone();
            Timeout::new(wait_ms(wait), move || dispatch.emit(Action::Tick))
        });
    }
}

/// A wait as a browser's timer takes it. A longer one is cut: the page looks and waits again.
fn wait_ms(wait: Millis) -> u32 {
    u32::try_from(wait.get()).unwrap_or(u32::MAX).min(60_000)
}

/// `73 credits · 7 min left` while a session runs.
fn title(state: &State, now: LocalTime) -> String {
    const NAME: &str = "Minute-Credit";
    let Screen::Dashboard(dashboard) = &state.screen else {
        return NAME.to_owned();
    };
    running_title(dashboard, now).unwrap_or_else(|| NAME.to_owned())
}

fn running_title(dashboard: &Dashboard, now: LocalTime) -> Option<String> {
    let live = dashboard.live?;
    let session = live.balance.session?;
    let credits = words::credits(live.balance.credits);
    let time = live.clock.at(dashboard.known_until(now));
    let left = Countdown::at(&session, live.balance.credits, time).left;
    Some(match left {
        _ if dashboard.link.is_lost() => format!("{credits} · no connection"),
        Some(left) => format!("{credits} · {} left", words::rough_time_left(left)),
        None => format!("{credits} · paused"),
    })
}

/// Listens to what happens outside of any component.
fn listen(dispatch: &Callback<Action>) -> Vec<EventListener> {
    let Some((window, document)) = browser::window().zip(browser::document()) else {
        return Vec::new();
    };
    let network = |network: Network| {
        let dispatch = dispatch.clone();
        move |_: &web_sys::Event| dispatch.emit(Action::NetworkChanged(network))
    };
    let stored = {
        let dispatch = dispatch.clone();
        move |event: &web_sys::Event| {
            let Some(event) = event.dyn_ref::<StorageEvent>() else {
                return;
            };
            // Without a key, all was cleared.
            if event.key().is_none_or(|key| key == storage::TOKEN_KEY) {
                let token = event.new_value().filter(|token| !token.is_empty());
                dispatch.emit(Action::TokenChanged(token.map(Token::new)));
            }
        }
    };
    let shown = {
        let dispatch = dispatch.clone();
        move |_: &web_sys::Event| {
            if browser::document()
                .is_some_and(|page| page.visibility_state() == VisibilityState::Visible)
            {
                dispatch.emit(Action::Shown);
            }
        }
    };
    let left = {
        let dispatch = dispatch.clone();
        move |_: &web_sys::Event| dispatch.emit(Action::Left)
    };
    let back = {
        let dispatch = dispatch.clone();
        move |_: &web_sys::Event| dispatch.emit(Action::Shown)
    };
    let pressed = {
        let dispatch = dispatch.clone();
        move |event: &web_sys::Event| {
            if event
                .dyn_ref::<KeyboardEvent>()
                .is_some_and(|event| event.key() == "Escape")
            {
                dispatch.emit(Action::EscapePressed);
            }
        }
    };
    vec![
        EventListener::new(&window, "online", network(Network::Online)),
        EventListener::new(&window, "offline", network(Network::Offline)),
        EventListener::new(&window, "storage", stored),
        EventListener::new(&window, "pagehide", left),
        EventListener::new(&window, "pageshow", back),
        EventListener::new(&document, "visibilitychange", shown),
        EventListener::new(&document, "keydown", pressed),
    ]
}
