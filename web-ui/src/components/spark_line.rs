//! The balance of the last five minutes as a line.

use yew::{Html, html};

use crate::{
    browser::locale,
    clock::LocalTime,
    model::{Dashboard, Live},
    spark::{Drawing, WINDOW},
    words,
};

const WIDTH: i64 = 600;
const HEIGHT: i64 = 160;

/// The panel. Where the balance isn't known, the line has a gap.
pub(super) fn view(dashboard: &Dashboard, now: LocalTime) -> Html {
    let drawn = dashboard.live.and_then(|live| draw(dashboard, live, now));
    let begin = dashboard
        .live
        .map(|live| locale::short_time(live.clock.at(now).saturating_sub(WINDOW)));
    html! {
        <section class="panel line">
            <h2>{ "Balance, last 5 minutes" }</h2>
            <svg class="spark" viewBox={format!("0 -4 {WIDTH} {}", HEIGHT + 4)} preserveAspectRatio="none" role="img"
                aria-label={drawn.as_ref().map_or_else(|| "Nothing is known yet".to_owned(), words_for)}>
                if let Some(drawing) = drawn {
                    <path class="a" d={drawing.area} /><path class="l" d={drawing.line} />
                }
            </svg>
            <div class="cap num"><bdi>{ begin.unwrap_or_default() }</bdi><span>{ "now" }</span></div>
        </section>
    }
}

fn draw(dashboard: &Dashboard, live: Live, now: LocalTime) -> Option<Drawing> {
    let [now, known_until] = [now, dashboard.known_until(now)].map(|time| live.clock.at(time));
    dashboard
        .spark
        .draw(now, known_until, dashboard.whole, WIDTH, HEIGHT)
}

fn words_for(drawing: &Drawing) -> String {
    let (first, last) = (drawing.first, drawing.last);
    let gap = if drawing.has_gap {
        "; not all of the time is known"
    } else {
        ""
    };
    if first == last {
        return format!("The balance has stayed at {}{gap}", words::credits(last));
    }
    let went = if last < first { "fell" } else { "rose" };
    let (first, last) = (words::number(first.get()), words::credits(last));
    format!("The balance {went} from {first} to {last} in the last five minutes{gap}")
}
