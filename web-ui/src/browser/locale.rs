//! How numbers, times and dates are written where the reader is, as the browser knows it.

use js_sys::{
    Array, Function,
    Intl::{DateTimeFormat, NumberFormat},
    Number, Object, Reflect,
};
use schema::UnixMillis;
use wasm_bindgen::JsValue;

use crate::words::{DayForm, LocalDay};

/// The browser's formats, made once: making one takes longer than using it.
struct Formats {
    decimal: Function,
    time: Function,
    short_time: Function,
    day: Function,
    day_and_year: Function,
}

thread_local! {
    static FORMATS: Formats = Formats::new();
}

impl Formats {
    fn new() -> Self {
        let time = |options: &[(&str, &str)]| {
            DateTimeFormat::new(&Array::new(), &object(options)).format()
        };
        let (day, month) = (("day", "numeric"), ("month", "short"));
        Self {
            // Up to three decimals is what every browser does by itself.
            decimal: NumberFormat::new(&Array::new(), &Object::new()).format(),
            time: time(&[("timeStyle", "medium")]),
            short_time: time(&[("timeStyle", "short")]),
            day: time(&[day, month]),
            day_and_year: time(&[day, month, ("year", "numeric")]),
        }
    }
}

/// A number of thousandths as a decimal number, with a true minus sign.
pub fn decimal(thousandths: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "amounts stay within 2^53")]
    let number = if thousandths % 1_000 == 0 {
        (thousandths / 1_000) as f64
    } else {
        thousandths as f64 / 1_000.0
    };
    FORMATS
        .with(|formats| write(&formats.decimal, number))
        .replace('-', "−")
}

/// The time of day with its seconds, after the date if that isn't today.
pub fn moment(instant: UnixMillis, now: UnixMillis) -> String {
    match day_of(instant).form(day_of(now)) {
        DayForm::Today => with(instant, |formats| &formats.time),
        form => dated(instant, form),
    }
}

/// `Today, 14:02`, `Yesterday, 18:15`, `3 Nov, 09:30` or `24 Dec 2025, 09:30`, seen from the day `today`.
pub fn day_and_time(instant: UnixMillis, today: LocalDay) -> String {
    dated(instant, day_of(instant).form(today))
}

/// The time of day in hours and minutes.
pub fn short_time(instant: UnixMillis) -> String {
    with(instant, |formats| &formats.short_time)
}

/// The day of `instant` where the reader is.
pub fn day_of(instant: UnixMillis) -> LocalDay {
    const DAY_MS: i64 = 86_400_000;
    const MINUTE_MS: i64 = 60_000;
    let date = js_sys::Date::new(&millis(instant).into());
    let local_ms = instant.get() - super::whole(date.get_timezone_offset()) * MINUTE_MS;
    LocalDay {
        year: date.get_full_year(),
        number: local_ms.div_euclid(DAY_MS),
    }
}

fn dated(instant: UnixMillis, form: DayForm) -> String {
    let day = match form {
        DayForm::Today => "Today".to_owned(),
        DayForm::Yesterday => "Yesterday".to_owned(),
        DayForm::InThisYear => with(instant, |formats| &formats.day),
        DayForm::InAnotherYear => with(instant, |formats| &formats.day_and_year),
    };
    format!("{day}, {}", short_time(instant))
}

fn with(instant: UnixMillis, format: fn(&Formats) -> &Function) -> String {
    FORMATS.with(|formats| write(format(formats), millis(instant)))
}

/// What `format` makes of `value`. It is the browser's own and refuses no number of ours; if it did, the
/// bare number would still be true.
fn write(format: &Function, value: f64) -> String {
    let text = format.call1(&JsValue::UNDEFINED, &value.into()).ok();
    text.and_then(|text| text.as_string())
        .unwrap_or_else(|| Number::from(value).to_locale_string("").into())
}

#[expect(clippy::cast_precision_loss, reason = "an instant stays within 2^53")]
const fn millis(instant: UnixMillis) -> f64 {
    instant.get() as f64
}

fn object(entries: &[(&str, &str)]) -> Object {
    let object = Object::new();
    for (name, value) in entries {
        // A plain new object takes any property.
        let _ = Reflect::set(&object, &(*name).into(), &(*value).into());
    }
    object
}
