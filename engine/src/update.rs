//! What the engine tells whoever shows balances: the gateway's hub, through a derived actor
//! reference, so that the engine doesn't know the hub's own messages.

use schema::{UserId, session::LiveBalance, websocket::ServerMessage};

/// News for one user's sockets.
#[derive(Clone, Debug)]
pub struct UserUpdate {
    /// Whose.
    pub user: UserId,
    /// What.
    pub news: News,
}

/// What there is to tell.
#[derive(Clone, Debug)]
pub enum News {
    /// The balance now. A later one replaces it: only the one with the greatest `as_of` matters.
    Balance(LiveBalance),
    /// Something happened. Never dropped, never replaced. Not a [`ServerMessage::CreditUpdate`].
    Event(ServerMessage),
}
