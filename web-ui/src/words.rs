//! Units and words: how amounts, lengths of time and instants read on the page.

use schema::{Credits, CreditsChange, Millis, ledger::EntryKind, session::EndReason};

/// A date and time of day where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalDateTime {
    /// The year.
    pub year: u32,
    /// The month, from 1.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The hour, from 0 to 23.
    pub hour: u32,
    /// The minute.
    pub minute: u32,
    /// The second.
    pub second: u32,
    /// The days since some day that is the same for all.
    pub day_number: i64,
}

impl LocalDateTime {
    /// `14:02:11`.
    pub fn time(self) -> String {
        format!(
            "{}:{}:{}",
            two_digits(self.hour),
            two_digits(self.minute),
            two_digits(self.second)
        )
    }

    /// `14:02`.
    pub fn short_time(self) -> String {
        format!("{}:{}", two_digits(self.hour), two_digits(self.minute))
    }

    /// `Today, 14:02`, `Yesterday, 18:15`, `3 Nov, 09:30` or `24 Dec 2025, 09:30`.
    pub fn relative_to(self, today: Self) -> String {
        let day = match today.day_number - self.day_number {
            0 => "Today".to_owned(),
            1 => "Yesterday".to_owned(),
            _ if today.year == self.year => format!("{} {}", self.day, month_name(self.month)),
            _ => format!("{} {} {}", self.day, month_name(self.month), self.year),
        };
        format!("{day}, {}", self.short_time())
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

/// `12,345`, with a true minus sign where it is negative.
pub fn number(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "−" } else { "" });
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `+100`, `−27`, `0`.
pub fn change(change: CreditsChange) -> String {
    let sign = if change.get() > 0 { "+" } else { "" };
    format!("{sign}{}", number(change.get()))
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

/// `7:16`, `1:07:16`: the time left where there is little room.
pub fn short_time_left(left: Millis) -> String {
    let seconds = seconds_up(left);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{}", two_digits(seconds)),
        _ => format!("{hours}:{}:{}", two_digits(minutes), two_digits(seconds)),
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
        (whole @ 0..60, rest) => {
            format!("{whole}.{} s", format!("{rest:03}").trim_end_matches('0'))
        }
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
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (1, _, _) => format!("1 day {hours} h"),
        _ => format!("{} days {hours} h", number(days)),
    }
}

fn two_digits(number: impl std::fmt::Display) -> String {
    format!("{number:0>2}")
}

fn month_name(month: u32) -> &'static str {
    const NAMES: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    month
        .checked_sub(1)
        .and_then(|month| NAMES.get(month as usize))
        .unwrap_or(&"")
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
        let check = |millis: i64, passed: &str, left: &str, short: &str| {
            assert_eq!(length(ms(millis)), passed, "{millis}");
            assert_eq!(time_left(ms(millis)), left, "{millis}");
            assert_eq!(short_time_left(ms(millis)), short, "{millis}");
        };
        check(0, "0 s", "0 s", "0:00");
        check(1, "0 s", "1 s", "0:01");
        check(59_001, "59 s", "1 min 0 s", "1:00");
        check(164_000, "2 min 44 s", "2 min 44 s", "2:44");
        check(3_599_001, "59 min 59 s", "1 h 0 min", "1:00:00");
        check(11_100_000, "3 h 5 min", "3 h 5 min", "3:05:00");
        check(100_000_000, "1 day 3 h", "1 day 3 h", "27:46:40");
        check(
            200_000_000_000,
            "2,314 days 19 h",
            "2,314 days 19 h",
            "55555:33:20",
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
        let today = LocalDateTime {
            year: 2026,
            month: 3,
            day: 1,
            hour: 0,
            minute: 5,
            second: 9,
            day_number: 500,
        };
        let check = |at: LocalDateTime, words: &str| assert_eq!(at.relative_to(today), words);
        check(today, "Today, 00:05");
        check(
            LocalDateTime {
                month: 2,
                day: 28,
                hour: 18,
                day_number: 499,
                ..today
            },
            "Yesterday, 18:05",
        );
        check(
            LocalDateTime {
                month: 2,
                day: 27,
                day_number: 498,
                ..today
            },
            "27 Feb, 00:05",
        );
        check(
            LocalDateTime {
                year: 2025,
                month: 12,
                day: 31,
                day_number: 440,
                ..today
            },
            "31 Dec 2025, 00:05",
        );
        assert_eq!(today.time(), "00:05:09");
    }
}
