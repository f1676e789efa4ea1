//! What can happen to the page, and what it can have done to the outside.

use schema::{
    account::{ChangePassword, EmailAndPassword},
    websocket::ServerMessage,
};

use crate::{
    api::{Answer, Call, Credentials, Failure, PasswordChange, Token},
    model::{Field, LoginNumber, SocketNumber, Tab},
    notice::NoticeNumber,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The page was opened, with the token that the browser remembers.
    Opened(Option<Token>),
    /// The page was opened at an address where there is none.
    OpenedAtWrongAddress,
    /// Something may be due.
    Tick,

    /// The user wants the card's other side.
    ModeSwitched,
    /// The user changed what is in a field.
    FieldEdited(Field),
    /// The user wants to see the password, or not to.
    PasswordToggled,
    /// The user sent the card.
    Submitted(Credentials),

    /// The user wants a session.
    StartPressed,
    /// The user wants it to stop.
    StopPressed,
    /// The user wants to leave.
    LogOutPressed,
    /// The user wants to leave on every device.
    LogOutEverywherePressed,
    /// The user wants to see what can be done about the login, or not any more.
    AccountToggled,
    /// The user sent a new password.
    PasswordChangeSubmitted(PasswordChange),
    /// The user wants to see a list.
    TabChosen(Tab),
    /// The user wants older rows in the open list.
    MorePressed,
    /// The user wants the open list asked for again.
    RetryPressed,
    /// The user doesn't want to wait for the next attempt to connect.
    ReconnectPressed,
    /// The user has read a notice.
    NoticeDismissed(NoticeNumber),
    /// The user has read how the session ended.
    EndCardDismissed,
    /// The user wants the topmost thing to go away.
    EscapePressed,

    /// A message came through a socket.
    SocketSaid(SocketNumber, ServerMessage),
    /// A socket is closed, with this code and this reason.
    SocketClosed(SocketNumber, u16, String),
    /// A call has its answer.
    Answered(LoginNumber, Call, Result<Answer, Failure>),
    /// Another tab logged in or out.
    TokenChanged(Option<Token>),
    /// The browser found or lost the network.
    NetworkChanged(Network),
    /// The page can be seen again.
    Shown,
    /// The browser leaves the page, and perhaps keeps it to come back to.
    Left,
}

/// What the browser believes of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// There is one.
    Online,
    /// There is none.
    Offline,
}

impl Action {
    /// A new password sent, with the one until now.
    pub fn password_change(current: String, new: String) -> Self {
        Self::PasswordChangeSubmitted(PasswordChange(ChangePassword { current, new }))
    }

    /// The card sent with what was typed.
    pub fn submitted(email: String, password: String) -> Self {
        Self::Submitted(Credentials(EmailAndPassword { email, password }))
    }
}

/// Something to be done to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make a call, with this token, and report its answer under this login.
    Call(LoginNumber, Option<Token>, Call),
    /// Close whatever socket there is and open one.
    Connect(SocketNumber, Token),
    /// Close whatever socket there is.
    Disconnect,
    /// Keep the token for the next visit and the other tabs.
    Remember(Token),
    /// Keep it no longer, unless another has taken its place.
    Forget(Token),
    /// Move the keyboard's focus.
    Focus(Target),
}

/// Where the focus can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The field for the email.
    Email,
    /// The field for the password.
    Password,
    /// The dashboard's heading.
    Dashboard,
    /// The button that opens the panel about the login.
    Account,
    /// The field there for the current password.
    CurrentPassword,
    /// The field there for the new one.
    NewPassword,
}
