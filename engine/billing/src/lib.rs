//! The arithmetic of Minute-Credit, pure: tariffs, the meter of served time and the wallet's state
//! machine. Each transition takes the state, an event and an instant, and gives the new state with
//! what follows from it, or a named rejection.
//!
//! Everything is in closed form: no transition loops over intervals, so a century costs as much as
//! a second. Deliberately absent: I/O, clocks, randomness, async, and any rounding but the one named
//! in [`Tariff::intervals_completed`].
//!
//! The words: a *tariff* is a price for each interval. What a wallet must keep back so that the
//! interval in progress can be paid is a *hold*. What a session has cost is its *charge*; moving a
//! charge into the ledger is a *settlement*.

mod meter;
mod recovery;
mod tariff;
mod wallet;

pub use meter::{Checkpoint, Meter, Span};
pub use recovery::{RecordedSession, Run, Takeover};
pub use tariff::{ChargedAt, Intervals, InvalidTariff, Tariff};
pub use wallet::{
    BalanceChange, End, Opening, Rebase, Session, Settled, Settlement, SlotNumber, StartRejection,
    StopRejection, Wallet, WalletVersion,
};
