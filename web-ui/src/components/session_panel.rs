//! The facts of the session that runs, or of the last one.

use yew::{Html, html};

use crate::{
    browser::locale,
    clock::LocalTime,
    countdown::Countdown,
    model::{Dashboard, SessionEnd},
    words,
};

/// A fact's name and value.
type Fact = (&'static str, String);

/// The panel.
pub(super) fn view(dashboard: &Dashboard, now: LocalTime) -> Html {
    let (title, facts) = match (
        dashboard.live.zip(dashboard.session()),
        dashboard.latest_end(),
    ) {
        (Some((live, session)), _) => {
            let time = live.clock.at(dashboard.known_until(now));
            let countdown = Countdown::at(&session, live.balance.credits, time);
            let runs_out = session
                .depletes_at
                .map_or_else(|| "–".to_owned(), |at| locale::moment(at, time));
            let facts = [
                ("Running for", words::length(countdown.running_for)),
                ("Cost so far", words::credits(session.consumed)),
                ("Started", locale::moment(session.started_at, time)),
                ("Runs out at", runs_out),
            ];
            ("This session", Some(facts))
        }
        (None, Some(end)) => ("Last session", Some(ended(&end, dashboard, now))),
        (None, None) => ("This session", None),
    };
    html! {
        <section class="panel facts">
            <h2>{ title }</h2>
            if let Some(facts) = facts {
                <dl class="num">{ for facts.into_iter().map(fact) }</dl>
            } else {
                <p class="empty">{ "No session is running. Once you start one, its time and cost appear here." }</p>
            }
        </section>
    }
}

fn ended(end: &SessionEnd, dashboard: &Dashboard, now: LocalTime) -> [Fact; 4] {
    let time = dashboard
        .live
        .map_or(end.ended_at, |live| live.clock.at(now));
    let length = end.length().map_or_else(|| "–".to_owned(), words::length);
    [
        ("Lasted", length),
        ("Cost", words::credits(end.consumed)),
        ("Ended", locale::moment(end.ended_at, time)),
        ("Ended by", words::ended_by(end.reason).to_owned()),
    ]
}

fn fact((name, value): Fact) -> Html {
    html! { <><dt>{ name }</dt><dd><bdi>{ value }</bdi></dd></> }
}
