//! Reads single settings and says precisely what is wrong with one.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr, time::Duration};

use figment::{
    Figment,
    value::{Num, Value},
};

use ipnet::{IpNet, Ipv4Net};

use super::{SettingsError, layers::trimmed};

/// The keys whose values never appear in a message.
const SECRETS: [&str; 4] = [
    "tokens.key",
    "database.url",
    "redis.url",
    "telemetry.otlp_endpoint",
];

/// Takes typed settings out of the merged layers.
pub(super) struct Reader {
    figment: Figment,
    /// Which keys were asked for: a key that nobody reads should not stand in the defaults.
    read: RefCell<BTreeSet<&'static str>>,
}

impl Reader {
    pub(super) fn new(figment: Figment) -> Self {
        Self {
            figment,
            read: RefCell::default(),
        }
    }

    /// A whole number from `min` to `max`.
    pub(super) fn whole(
        &self,
        key: &'static str,
        min: i64,
        max: i64,
    ) -> Result<i64, SettingsError> {
        let expected = || format!("must be a whole number from {min} to {max}");
        let number = match self.value(key)? {
            Value::Num(_, number) => whole_number(number),
            _ => None,
        };
        number
            .and_then(|number| i64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.wrong(key, &expected()))
    }

    /// A count that fits a machine word.
    pub(super) fn count(
        &self,
        key: &'static str,
        min: i64,
        max: i64,
    ) -> Result<usize, SettingsError> {
        let count = self.whole(key, min, max)?;
        usize::try_from(count).map_err(|_| self.wrong(key, "is too large for this machine"))
    }

    /// A length of time from `min_ms` to a day, written in milliseconds.
    pub(super) fn duration(
        &self,
        key: &'static str,
        min_ms: i64,
    ) -> Result<Duration, SettingsError> {
        Ok(Duration::from_millis(
            self.whole(key, min_ms, 86_400_000)?.unsigned_abs(),
        ))
    }

    /// A text, without white space around it.
    pub(super) fn text(&self, key: &'static str) -> Result<String, SettingsError> {
        match self.value(key)? {
            Value::String(_, text) => Ok(trimmed(&text).to_owned()),
            _ => Err(self.wrong(key, "must be a text in quotes")),
        }
    }

    /// A text, or nothing where it is empty.
    pub(super) fn optional_text(&self, key: &'static str) -> Result<Option<String>, SettingsError> {
        Ok(Some(self.text(key)?).filter(|text| !text.is_empty()))
    }

    /// A list of texts, without white space around each.
    pub(super) fn texts(&self, key: &'static str) -> Result<Vec<String>, SettingsError> {
        let expected = || self.wrong(key, "must be a list of texts, as in [\"a\", \"b\"]");
        let Value::Array(_, items) = self.value(key)? else {
            return Err(expected());
        };
        items
            .into_iter()
            .map(|item| match item.into_string() {
                Some(text) => Ok(trimmed(&text).to_owned()),
                None => Err(expected()),
            })
            .collect()
    }

    /// A list of networks, each as in 10.0.0.0/8, or an address alone.
    pub(super) fn networks(&self, key: &'static str) -> Result<Vec<IpNet>, SettingsError> {
        let network = |text: &String| {
            let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
            text.parse().ok().or_else(alone).map(unmapped)
        };
        self.texts(key)?
            .iter()
            .map(|text| {
                network(text).ok_or_else(|| {
                    let problem = format!(
                        "must be a list of networks, as in [\"10.0.0.0/8\", \"::1\"]; {text:?} is none"
                    );
                    self.wrong(key, &problem)
                })
            })
            .collect()
    }

    /// One of a few words, as what `parse` makes of it.
    pub(super) fn choice<T>(
        &self,
        key: &'static str,
        words: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let Ok(text) = self.text(key) else {
            return Err(self.wrong(key, &format!("must be {words}")));
        };
        parse(&text).ok_or_else(|| self.wrong(key, &format!("must be {words}")))
    }

    /// The error that `key` is wrong: what it `must` be, what it is and who says so.
    pub(super) fn wrong(&self, key: &'static str, must: &str) -> SettingsError {
        let origin = self
            .figment
            .find_metadata(key)
            .map_or("an unknown source", |metadata| &metadata.name)
            .to_owned();
        let given = match self.figment.find_value(key) {
            Ok(Value::String(_, text)) if SECRETS.contains(&key) => {
                // A file of variables for containers keeps the quotes that a shell takes away.
                let is_quoted = text.starts_with(['"', '\'']);
                if is_quoted { ", without quotes" } else { "" }.to_owned()
            }
            Ok(_) if SECRETS.contains(&key) => String::new(),
            Ok(value) => format!(", not {}", shown(&value)),
            Err(_) => String::new(),
        };
        SettingsError::Wrong {
            key,
            problem: format!("{must}{given}"),
            origin,
        }
    }

    /// Which keys were asked for so far.
    #[cfg(test)]
    pub(super) fn keys_read(&self) -> BTreeSet<&'static str> {
        self.read.borrow().clone()
    }

    fn value(&self, key: &'static str) -> Result<Value, SettingsError> {
        self.read.borrow_mut().insert(key);
        self.figment
            .find_value(key)
            .map_err(|_| self.wrong(key, "is missing"))
    }
}

/// The network as addresses are compared with it: IPv4 that is written as IPv6 becomes IPv4 again.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(written) = network else {
        return network;
    };
    let bits = written.prefix_len().checked_sub(MAPPED_BITS);
    let address = written.addr().to_ipv4_mapped();
    match (address, bits) {
        (Some(address), Some(bits)) => Ipv4Net::new(address, bits).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// The number, if it has no fraction. The library keeps signed and unsigned ones apart.
fn whole_number(number: Num) -> Option<i128> {
    number.to_i128().or_else(|| {
        number
            .to_u128()
            .and_then(|number| i128::try_from(number).ok())
    })
}

/// A value as people write it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => whole_number(*number)
            .map(|whole| whole.to_string())
            .or_else(|| number.to_f64().map(|fraction| fraction.to_string()))
            .unwrap_or_else(|| "that number".to_owned()),
        Value::Array(..) => "that list".to_owned(),
        Value::Dict(..) => "a table".to_owned(),
        Value::Char(..) | Value::Empty(..) => "that".to_owned(),
    }
}
