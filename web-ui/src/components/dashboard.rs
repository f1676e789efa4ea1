//! The dashboard: what belongs where.

use yew::{Callback, ContextProvider, Html, Properties, classes, function_component, html};

use super::{
    account::AccountPanel,
    history::{self, History},
    session_panel, spark_line, wallet_panel,
};
use crate::{action::Action, clock::LocalTime, countdown::Level, model::Dashboard};

/// What the dashboard shows.
#[derive(PartialEq, Properties)]
pub(super) struct Props {
    /// All that is known.
    pub(super) dashboard: Dashboard,
    /// The time.
    pub(super) now: LocalTime,
    /// Takes what the user does.
    pub(super) dispatch: Callback<Action>,
}

/// The dashboard.
#[function_component]
pub(super) fn DashboardView(props: &Props) -> Html {
    let Props {
        dashboard,
        now,
        dispatch,
    } = props;
    let level = match dashboard.level {
        Level::Fine => None,
        Level::Low => Some("low"),
        Level::Last => Some("last"),
    };
    html! {
        <main class={classes!("board", level)}>
            <h1 id="dashboard" class="unseen" tabindex="-1">{ "Dashboard" }</h1>
            if let Some(account) = &dashboard.account {
                <AccountPanel account={account.clone()} email={dashboard.email.clone()} dispatch={dispatch.clone()} />
            }
            { wallet_panel::view(dashboard, *now, dispatch) }
            { session_panel::view(dashboard, *now) }
            { spark_line::view(dashboard, *now) }
            <ContextProvider<LocalTime> context={dashboard.known_until(*now)}>
                <History tab={dashboard.tab} rows={history::Rows::of(dashboard, *now)} dispatch={dispatch.clone()} />
            </ContextProvider<LocalTime>>
        </main>
    }
}
