//! Units and words: how amounts, lengths of time and instants read on the page.

use schema::{Credits, CreditsChange, Millis, ledger::EntryKind, session::EndReason};

/// A day where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalDay {
    /// The year.
    pub year: u32,
    /// The days since some day that is the same for all.
    pub number: i64,
}

/// How much has to be said of a day so that the reader knows which one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayForm {
    /// `Today`.
    Today,
    /// `Yesterday`.
    Yesterday,
    /// Day and month.
    InThisYear,
    /// Day, month and year.
    InAnotherYear,
}

impl LocalDay {
    /// How to name this day on the day `today`.
    pub const fn form(self, today: Self) -> DayForm {
        match today.number - self.number {
            0 => DayForm::Today,
            1 => DayForm::Yesterday,
            _ if today.year == self.year => DayForm::InThisYear,
            _ => DayForm::InAnotherYear,
        }
    }
}

/// `1 credit`, `73 credits`.
pub fn credits(amount: Credits) -> String {
    format!("{} {}", number(amount.get()), unit(amount))
}

/// `credit` or `credits`, whichever goes with `amount`.
pub fn unit(amount: Credits) -> &'static str {
    if amount.get() == 1 {
        "credit"
    } else {
        "credits"
    }
}

/// `12,345`, as the reader's browser writes it, with a true minus sign where it is negative.
pub fn number(number: i64) -> String {
    thousandths(number.saturating_mul(1_000))
}

/// `+100`, `−27`, `0`.
pub fn change(change: CreditsChange) -> String {
    let sign = if change.get() > 0 { "+" } else { "" };
    format!("{sign}{}", number(change.get()))
}

/// A number of thousandths as a decimal number: `12,345.6`.
#[cfg(target_arch = "wasm32")]
fn thousandths(thousandths: i64) -> String {
    crate::browser::locale::decimal(thousandths)
}

/// Outside a browser numbers are written as English does.
#[cfg(not(target_arch = "wasm32"))]
fn thousandths(thousandths: i64) -> String {
    let (whole, rest) = (
        thousandths.unsigned_abs() / 1_000,
        thousandths.unsigned_abs() % 1_000,
    );
    let digits = whole.to_string();
    let mut text = String::from(if thousandths < 0 { "−" } else { "" });
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if rest > 0 {
        text.push_str(format!(".{rest:03}").trim_end_matches('0'));
    }
    text
}

/// `44 s`, `2 min 44 s`, `3 h 5 min`, `2 days 4 h`: what has begun is left out, so use it for time
/// that has passed.
pub fn length(length: Millis) -> String {
    seconds(length.get() / 1_000)
}

/// Like [`length`], with a begun second counted whole: for time that is left.
pub fn time_left(left: Millis) -> String {
    seconds(seconds_up(left))
}

/// `2 days`, `3 h`, `8 min` or, in the last minute, `44 s`: the time left where there is little room and it
/// should not change every second. All but the seconds are rounded down, so nobody is promised too much.
pub fn rough_time_left(left: Millis) -> String {
    let seconds = seconds_up(left);
    match seconds {
        0..60 => format!("{} s", number(seconds)),
        60..3_600 => format!("{} min", number(seconds / 60)),
        3_600..172_800 => format!("{} h", number(seconds / 3_600)),
        _ => format!("{} days", number(seconds / 86_400)),
    }
}

/// The whole seconds in `length`, a begun one counted.
pub const fn seconds_up(length: Millis) -> i64 {
    length.get() / 1_000 + (length.get() % 1_000 > 0) as i64
}

/// `1 credit every 6 s`.
pub fn rate(price: Credits, interval: Millis) -> String {
    let every = match (interval.get() / 1_000, interval.get() % 1_000) {
        (1, 0) => "second".to_owned(),
        (60, 0) => "minute".to_owned(),
        (3_600, 0) => "hour".to_owned(),
        (whole, 0) => seconds(whole),
        (0..60, _) => format!("{} s", thousandths(interval.get())),
        _ => length(interval),
    };
    format!("{} every {every}", credits(price))
}

/// Who or what ended a session, as a word for a table.
pub const fn ended_by(reason: EndReason) -> &'static str {
    match reason {
        EndReason::User => "You",
        EndReason::Depleted => "Ran out",
        EndReason::Admin => "Operator",
        EndReason::Engine => "Service",
    }
}

/// What a movement of the wallet was for.
pub const fn movement(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::SignupGrant => "Sign-up credits",
        EntryKind::Usage => "Session",
        EntryKind::Grant => "Credits added",
        EntryKind::Revoke => "Credits taken back",
        EntryKind::Refund => "Refund",
        _ => "Other movement",
    }
}

fn seconds(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let [d, h, min, s] = [days, hours, minutes, seconds % 60].map(number);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{min} min {s} s"),
        (0, _, _) => format!("{h} h {min} min"),
        (1, _, _) => format!("{d} day {h} h"),
        _ => format!("{d} days {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: i64) -> Millis {
        Millis::new(millis).unwrap()
    }

    fn amount(credits: i64) -> Credits {
        Credits::new(credits).unwrap()
    }

    #[test]
    fn amounts() {
        let check = |given: i64, words: &str| assert_eq!(credits(amount(given)), words);
        check(0, "0 credits");
        check(1, "1 credit");
        check(999, "999 credits");
        check(1_000, "1,000 credits");
        check(1_234_567, "1,234,567 credits");

        assert_eq!(change(CreditsChange::incoming(amount(100))), "+100");
        assert_eq!(change(CreditsChange::outgoing(amount(1_027))), "−1,027");
        assert_eq!(change(CreditsChange::default()), "0");
    }

    #[test]
    fn lengths() {
        let check = |millis: i64, passed: &str, left: &str, rough: &str| {
            assert_eq!(length(ms(millis)), passed, "{millis}");
            assert_eq!(time_left(ms(millis)), left, "{millis}");
            assert_eq!(rough_time_left(ms(millis)), rough, "{millis}");
        };
        check(0, "0 s", "0 s", "0 s");
        check(1, "0 s", "1 s", "1 s");
        check(59_001, "59 s", "1 min 0 s", "1 min");
        check(164_000, "2 min 44 s", "2 min 44 s", "2 min");
        check(3_599_001, "59 min 59 s", "1 h 0 min", "1 h");
        check(11_100_000, "3 h 5 min", "3 h 5 min", "3 h");
        check(100_000_000, "1 day 3 h", "1 day 3 h", "27 h");
        check(
            200_000_000_000,
            "2,314 days 19 h",
            "2,314 days 19 h",
            "2,314 days",
        );
    }

    #[test]
    fn rates() {
        let check = |price: i64, interval: i64, words: &str| {
            assert_eq!(rate(amount(price), ms(interval)), words);
        };
        check(1, 6_000, "1 credit every 6 s");
        check(10, 60_000, "10 credits every minute");
        check(1, 1_000, "1 credit every second");
        check(5, 3_600_000, "5 credits every hour");
        check(1, 200, "1 credit every 0.2 s");
        check(1, 1_050, "1 credit every 1.05 s");
        check(2, 90_000, "2 credits every 1 min 30 s");
    }

    #[test]
    fn days() {
        let check = |year, number, form| {
            let today = LocalDay {
                year: 2026,
                number: 500,
            };
            assert_eq!(LocalDay { year, number }.form(today), form, "{number}");
        };
        check(2026, 500, DayForm::Today);
        check(2026, 499, DayForm::Yesterday);
        check(2025, 499, DayForm::Yesterday);
        check(2026, 498, DayForm::InThisYear);
        check(2026, 501, DayForm::InThisYear);
        check(2025, 440, DayForm::InAnotherYear);
        check(2027, 550, DayForm::InAnotherYear);
    }
}
