//! What the micro-benchmarks share: a wallet with one live session at the default tariff.
//!
//! Run them with `cargo bench --package benches`.

use billing::{ChargedAt, SlotNumber, Tariff, Wallet, WalletVersion};
use schema::{Credits, Millis, SessionId, UnixMillis, UserId};

/// When the sessions of all benchmarks start.
pub const BEGIN_MS: i64 = 1_700_000_000_000;

/// The instant so many milliseconds after the beginning.
///
/// # Panics
/// Past the end of time.
pub fn after(millis: i64) -> UnixMillis {
    #[expect(clippy::expect_used, reason = "the benchmarks stay within time")]
    UnixMillis::new(BEGIN_MS + millis).expect("the instant exists")
}

/// The id of the only session.
///
/// # Panics
/// Never.
pub fn session() -> SessionId {
    #[expect(clippy::expect_used, reason = "it is a constant")]
    SessionId::new(1).expect("1 is an id")
}

/// A wallet whose only session runs since [`BEGIN_MS`], recorded, at 1 credit for each 6 s.
///
/// # Panics
/// If `credits` are none that a wallet can hold, or too few to start.
pub fn live_wallet(credits: i64) -> Wallet {
    #[expect(
        clippy::expect_used,
        reason = "the benchmarks ask for wallets that exist"
    )]
    let (user, credits, price, interval) = (
        UserId::new(1).expect("1 is an id"),
        Credits::new(credits).expect("a wallet can hold it"),
        Credits::new(1).expect("1 is an amount"),
        Millis::new(6_000).expect("6 s is a time"),
    );
    #[expect(clippy::expect_used, reason = "the tariff is the default one")]
    let tariff = Tariff::new(price, interval, ChargedAt::End).expect("the tariff is one");
    let version = WalletVersion::new(1);
    let mut wallet = Wallet::new(user, version, credits, after(0), Vec::new());
    #[expect(clippy::expect_used, reason = "nothing stands in its way")]
    wallet
        .start(after(0), session(), SlotNumber::default(), tariff)
        .expect("the session starts");
    wallet.start_recorded(session(), version.next());
    wallet
}
