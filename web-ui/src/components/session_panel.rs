//! The facts of the session that runs, or of the last one.

use yew::{Html, html};

use crate::{
    browser,
    clock::LocalTime,
    countdown::Countdown,
    model::{Dashboard, SessionEnd},
    words,
};

/// A fact's name and value.
type Fact = (&'static str, String);

/// The panel.
pub(super) fn view(dashboard: &Dashboard, now: LocalTime) -> Html {
    let (title, facts) = match (dashboard.live.zip(dashboard.session()), &dashboard.last_end) {
        (Some((live, session)), _) => {
            let countdown = Countdown::at(&session, live.clock.at(now));
            let runs_out = session
                .depletes_at
                .map_or_else(|| "–".to_owned(), |at| browser::local(at).time());
            let facts = [
                ("Running for", words::length(countdown.running_for)),
                ("Cost so far", words::credits(session.consumed)),
                ("Started", browser::local(session.started_at).time()),
                ("Runs out at", runs_out),
            ];
            ("This session", Some(facts))
        }
        (None, Some(end)) => ("Last session", Some(ended(end))),
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

fn ended(end: &SessionEnd) -> [Fact; 4] {
    let length = end.length().map_or_else(|| "–".to_owned(), words::length);
    [
        ("Lasted", length),
        ("Cost", words::credits(end.consumed)),
        ("Ended", browser::local(end.ended_at).time()),
        ("Ended by", words::ended_by(end.reason).to_owned()),
    ]
}

fn fact((name, value): Fact) -> Html {
    html! { <><dt>{ name }</dt><dd>{ value }</dd></> }
}
