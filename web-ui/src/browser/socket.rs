//! The websocket that balances come through.
//!
//! It is opened by a ticket, which is asked for first: so that the token stands in no address.

use std::{cell::RefCell, rc::Rc};

use gloo_events::EventListener;
use schema::websocket::{CloseCode, ServerMessage};
use wasm_bindgen::JsCast as _;
use web_sys::{CloseEvent, MessageEvent, WebSocket};
use yew::Callback;

use super::fetch;
use crate::{
    action::Action,
    api::{Answer, Call, Failure, Token, escaped},
    model::SocketNumber,
    reducer::HEARTBEAT,
};

/// A socket. It is closed when it is dropped, and says nothing more then.
pub struct Socket {
    /// Nothing until the ticket has come. Whoever brings it looks whether somebody still waits.
    _open: Rc<RefCell<Option<Open>>>,
}

/// A websocket with those who listen to it.
struct Open {
    raw: WebSocket,
    _listeners: [EventListener; 2],
}

impl Socket {
    /// Opens a socket that reports what it hears as actions.
    pub fn open(number: SocketNumber, token: &Token, dispatch: &Callback<Action>) -> Self {
        let open = Rc::new(RefCell::new(None));
        let (waiting, token, dispatch) = (Rc::downgrade(&open), token.clone(), dispatch.clone());
        wasm_bindgen_futures::spawn_local(async move {
            let opened = open_by_ticket(number, &token, &dispatch).await;
            match (waiting.upgrade(), opened) {
                (Some(place), Ok(socket)) => *place.borrow_mut() = Some(socket),
                (Some(_), Err(NotOpened { code, reason })) => {
                    dispatch.emit(Action::SocketClosed(number, code, reason));
                }
                (None, _) => {}
            }
        });
        Self { _open: open }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A socket that is closed already stays so.
        let _ = self.raw.close();
    }
}

/// Why there is no websocket, as one that was there would be closed.
struct NotOpened {
    code: u16,
    reason: String,
}

impl NotOpened {
    const fn without_a_word() -> Self {
        Self {
            code: CloseCode::ABNORMAL,
            reason: String::new(),
        }
    }
}

/// Opens a websocket.
async fn open_by_ticket(
    number: SocketNumber,
    token: &Token,
    dispatch: &Callback<Action>,
) -> Result<Open, NotOpened> {
    let ticket = match fetch::send(&Call::Ticket, Some(token)).await {
        Ok(Answer::Ticket(ticket)) => ticket,
        Ok(_) => return Err(NotOpened::without_a_word()),
        Err(failure) => return Err(not_opened(&failure)),
    };
    let address = address(&ticket).ok_or_else(NotOpened::without_a_word)?;
    let raw = WebSocket::new(&address).map_err(|_| NotOpened::without_a_word())?;
    let said = {
        let dispatch = dispatch.clone();
        EventListener::new(&raw, "message", move |event| {
            let text = event
                .dyn_ref::<MessageEvent>()
                .and_then(|event| event.data().as_string());
            // A type that this page doesn't know is ignored, as the contract asks.
            if let Some(message) =
                text.and_then(|text| serde_json::from_str::<ServerMessage>(&text).ok())
            {
                dispatch.emit(Action::SocketSaid(number, message));
            }
        })
    };
    let closed = {
        let dispatch = dispatch.clone();
        EventListener::once(&raw, "close", move |event| {
            let closed = event.dyn_ref::<CloseEvent>();
            let code = closed.map_or(CloseCode::ABNORMAL, CloseEvent::code);
            let reason = closed.map(CloseEvent::reason).unwrap_or_default();
            dispatch.emit(Action::SocketClosed(number, code, reason));
        })
    };
    Ok(Open {
        raw,
        _listeners: [said, closed],
    })
}

/// What a refused ticket means for the socket.
fn not_opened(failure: &Failure) -> NotOpened {
    let code = if failure.ends_login() {
        CloseCode::NotAllowed.number()
    } else if failure.retry_after().is_some() {
        CloseCode::TryLater.number()
    } else {
        return NotOpened::without_a_word();
    };
    NotOpened {
        code,
        reason: failure.sentence(),
    }
}

fn address(ticket: &Token) -> Option<String> {
    let location = super::window()?.location();
    let scheme = if location.protocol().ok()? == "https:" {
        "wss"
    } else {
        "ws"
    };
    Some(format!(
        "{scheme}://{}/ws?ticket={}&heartbeat_ms={}",
        location.host().ok()?,
        escaped(ticket.as_str()),
        HEARTBEAT.get()
    ))
}
