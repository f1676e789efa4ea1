//! The balance of the last five minutes as a line.

use yew::{Html, html};

use crate::{
    browser,
    clock::LocalTime,
    model::{Dashboard, Live},
    spark::{Drawing, WINDOW},
    words,
};

const WIDTH: i64 = 600;
const HEIGHT: i64 = 160;

/// The panel.
pub(super) fn view(dashboard: &Dashboard, now: LocalTime) -> Html {
    let drawn = dashboard.live.and_then(|live| draw(dashboard, live, now));
    let begin = dashboard
        .live
        .map(|live| browser::local(live.clock.at(now).saturating_sub(WINDOW)).short_time());
    html! {
        <section class="panel">
            <h2>{ "Balance, last 5 minutes" }</h2>
            <svg class="spark" viewBox={format!("0 -4 {WIDTH} {}", HEIGHT + 4)} preserveAspectRatio="none" role="img"
                aria-label={drawn.as_ref().map_or_else(|| "Nothing is known yet".to_owned(), words_for)}>
                if let Some(drawing) = drawn {
                    <path class="a" d={drawing.area} /><path class="l" d={drawing.line} />
                    if let Some(unknown) = drawing.unknown {
                        <path class="u" d={unknown} />
                    }
                }
            </svg>
            <div class="cap num"><span>{ begin.unwrap_or_default() }</span><span>{ "now" }</span></div>
        </section>
    }
}

fn draw(dashboard: &Dashboard, live: Live, now: LocalTime) -> Option<Drawing> {
    dashboard
        .spark
        .draw(live.clock.at(now), dashboard.whole, WIDTH, HEIGHT)
}

fn words_for(drawing: &Drawing) -> String {
    let (first, last) = (drawing.first, drawing.last);
    if first == last {
        return format!("The balance has stayed at {}", words::credits(last));
    }
    let went = if last < first { "fell" } else { "rose" };
    let (first, last) = (words::number(first.get()), words::credits(last));
    format!("The balance {went} from {first} to {last} in the last five minutes")
}
