//! A picture of a run: how late pushes came, on a logarithmic scale, above the server's memory.

use std::fmt::Write as _;

use super::{
    figures::{Unit, number},
    timeline::{Lateness, Timeline},
};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
/// The upper picture: lateness.
const LATENESS: Panel = Panel {
    top: 50.0,
    height: 260.0,
};
/// The lower picture: memory.
const MEMORY: Panel = Panel {
    top: 360.0,
    height: 140.0,
};
const HEIGHT: f64 = 550.0;
/// The least lateness that is shown, in milliseconds; what is less is drawn there.
const LATENESS_MS_MIN: f64 = 0.1;
/// The lines, with their colours, which differ in brightness too.
const LINES: [Line; 3] = [
    ("max", "#b2182b", |it| it.max_ms),
    ("p99", "#ef8a62", |it| it.p99_ms),
    ("p50", "#2166ac", |it| it.p50_ms),
];

/// A name, a colour, and what it shows of a second.
type Line = (&'static str, &'static str, fn(&Lateness) -> f64);

#[derive(Clone, Copy)]
struct Panel {
    top: f64,
    height: f64,
}

impl Panel {
    const fn bottom(self) -> f64 {
        self.top + self.height
    }
}

/// Where seconds are, from left to right.
struct TimeAxis {
    from_s: f64,
    to_s: f64,
}

impl TimeAxis {
    fn x(&self, at_s: f64) -> f64 {
        let share = (at_s - self.from_s) / (self.to_s - self.from_s).max(1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

/// The picture as SVG.
pub fn svg(title: &str, timeline: &Timeline) -> String {
    let times = || {
        let lateness = timeline.lateness.iter().map(|it| it.at_s + 1.0);
        lateness.chain(timeline.memory.iter().map(|it| it.at_s))
    };
    let axis = TimeAxis {
        from_s: times().fold(0.0, f64::min),
        to_s: times().fold(1.0, f64::max),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    draw_lateness(&mut svg, &axis, &timeline.lateness);
    draw_memory(&mut svg, &axis, timeline);
    draw_seconds(&mut svg, &axis);
    svg.push_str("</svg>\n");
    svg
}

fn draw_lateness(svg: &mut String, axis: &TimeAxis, lateness: &[Lateness]) {
    let finite = lateness
        .iter()
        .map(|it| it.max_ms)
        .filter(|ms| ms.is_finite());
    let top_ms = power_of_ten_over(finite.fold(1.0, f64::max));
    let decades = (top_ms / LATENESS_MS_MIN).log10();
    let y = |ms: f64| {
        let share = (ms.clamp(LATENESS_MS_MIN, top_ms) / LATENESS_MS_MIN).log10() / decades;
        LATENESS.bottom() - share * LATENESS.height
    };
    let mut mark = LATENESS_MS_MIN;
    while mark < top_ms * 1.5 {
        draw_mark(svg, y(mark), &format!("{mark} ms"));
        mark = power_of_ten_over(mark);
    }
    for (line, (name, colour, value)) in LINES.iter().enumerate() {
        let points = lateness
            .iter()
            .map(|it| (axis.x(it.at_s + 0.5), y(value(it))));
        draw_line(svg, colour, points.clone());
        // A second in which something was due may stand between others in which nothing was.
        for (x, y) in points {
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"3\" fill=\"{colour}\"/>",
                x - 1.5,
                y - 1.5
            );
        }
        // What is missing can't be drawn to scale.
        for it in lateness.iter().filter(|it| value(it).is_infinite()) {
            let (x, y) = (axis.x(it.at_s + 0.5), LATENESS.top);
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/>"
            );
        }
        let x = WIDTH - RIGHT - 60.0 * (number(u64::try_from(line).unwrap_or(0)) + 1.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" fill=\"{colour}\">— {name}</text>",
            LATENESS.top - 8.0
        );
    }
    draw_name(svg, LATENESS, "lateness of the pushes due in each second");
}

fn draw_memory(svg: &mut String, axis: &TimeAxis, timeline: &Timeline) {
    let samples = || {
        timeline
            .memory
            .iter()
            .map(|it| (it.at_s, number(it.resident)))
    };
    let greatest = samples().map(|(_, bytes)| bytes).fold(1.0, f64::max);
    let y = |bytes: f64| MEMORY.bottom() - bytes / (greatest * 1.1) * MEMORY.height;
    for share in [0.0, 0.5, 1.0] {
        draw_mark(
            svg,
            y(greatest * share),
            &Unit::Bytes.show(greatest * share),
        );
    }
    draw_line(
        svg,
        "#1b7837",
        samples().map(|(at, bytes)| (axis.x(at), y(bytes))),
    );
    draw_name(svg, MEMORY, "resident memory of the server");
}

/// The seconds below both pictures, and where the measured window begins.
fn draw_seconds(svg: &mut String, axis: &TimeAxis) {
    let mut at = (axis.from_s / 5.0).ceil() * 5.0;
    while at <= axis.to_s {
        let (x, y) = (axis.x(at), MEMORY.bottom() + 18.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at} s</text>"
        );
        at += 5.0;
    }
    let (x, top, bottom) = (axis.x(0.0), LATENESS.top, MEMORY.bottom());
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#888\" stroke-dasharray=\"4\"/>"
    );
}

fn draw_name(svg: &mut String, panel: Panel, name: &str) {
    let y = panel.top - 8.0;
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{y}\" fill=\"#444\">{name}</text>"
    );
}

/// A level line with what it means.
fn draw_mark(svg: &mut String, y: f64, meaning: &str) {
    let (right, text_x, text_y) = (WIDTH - RIGHT, LEFT - 6.0, y + 4.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
         <text x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{meaning}</text>"
    );
}

fn draw_line(svg: &mut String, colour: &str, points: impl Iterator<Item = (f64, f64)>) {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
        points.join(" ")
    );
}

/// The least power of ten, from 0.1 on, that is greater.
fn power_of_ten_over(value: f64) -> f64 {
    let powers = [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];
    let found = powers.into_iter().find(|power| *power > value * 1.000_1);
    found.unwrap_or(1_000_000.0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::timeline::MemorySample;

    #[test]
    fn a_plot_shows_what_is_missing() {
        let second = |at_s, max_ms| Lateness {
            at_s,
            p50_ms: 1.0,
            p99_ms: 10.0,
            max_ms,
        };
        let mut timeline = Timeline {
            lateness: vec![second(0.0, 20.0), second(1.0, 30.0)],
            memory: vec![MemorySample {
                at_s: -3.0,
                resident: 50_000_000,
            }],
        };
        let drawn = svg("a < b", &timeline);
        assert!(
            drawn.contains("a &lt; b") && drawn.contains("100 ms"),
            "{drawn}"
        );
        assert!(!drawn.contains("<circle") && !drawn.contains("inf") && !drawn.contains("NaN"));
        timeline.lateness[1].max_ms = f64::INFINITY;
        let drawn = svg("", &timeline);
        assert_eq!(drawn.matches("<circle").count(), 1, "{drawn}");
        assert!(!drawn.contains("inf") && !drawn.contains("NaN"), "{drawn}");
        svg("", &Timeline::default());
    }
}
