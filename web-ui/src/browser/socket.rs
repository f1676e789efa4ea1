//! The websocket that balances come through.

use gloo_events::EventListener;
use gloo_timers::callback::Timeout;
use schema::websocket::ServerMessage;
use wasm_bindgen::JsCast as _;
use web_sys::{CloseEvent, MessageEvent, WebSocket};
use yew::Callback;

use crate::{
    action::Action,
    api::{Token, escaped},
    model::SocketNumber,
};

/// The code that a browser gives where there was no close frame.
const CLOSED_WITHOUT_A_WORD: u16 = 1006;

/// A socket. It is closed when it is dropped, and says nothing more then.
pub struct Socket {
    raw: Option<WebSocket>,
    _listeners: Vec<EventListener>,
    _refused: Option<Timeout>,
}

impl Socket {
    /// Opens a socket that reports what it hears as actions.
    pub fn open(number: SocketNumber, token: &Token, dispatch: &Callback<Action>) -> Self {
        let Some(socket) = address(token).and_then(|address| WebSocket::new(&address).ok()) else {
            // Reported like any other failure, and not before the caller is done.
            let dispatch = dispatch.clone();
            let refused = Timeout::new(0, move || {
                dispatch.emit(Action::SocketClosed(number, CLOSED_WITHOUT_A_WORD));
            });
            return Self {
                raw: None,
                _listeners: Vec::new(),
                _refused: Some(refused),
            };
        };
        let said = {
            let dispatch = dispatch.clone();
            EventListener::new(&socket, "message", move |event| {
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
            EventListener::once(&socket, "close", move |event| {
                let code = event
                    .dyn_ref::<CloseEvent>()
                    .map_or(CLOSED_WITHOUT_A_WORD, CloseEvent::code);
                dispatch.emit(Action::SocketClosed(number, code));
            })
        };
        Self {
            raw: Some(socket),
            _listeners: vec![said, closed],
            _refused: None,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(socket) = &self.raw {
            // A socket that is closed already stays so.
            let _ = socket.close();
        }
    }
}

fn address(token: &Token) -> Option<String> {
    let location = super::window()?.location();
    let scheme = if location.protocol().ok()? == "https:" {
        "wss"
    } else {
        "ws"
    };
    Some(format!(
        "{scheme}://{}/ws?token={}",
        location.host().ok()?,
        escaped(token.as_str())
    ))
}
