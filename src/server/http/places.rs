//! Places for connections that stay open: how many there are at all, for one person, and for one address.
//!
//! Invariants: a place is given back when it is dropped, however that comes about; what is not held is not remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use metrics::gauge;

use super::HttpState;
use super::answer::Refusal;
use super::caller::Who;
use super::rate::Payer;

/// When to come again: others end their connections all the time.
const AGAIN: Duration = Duration::from_secs(5);

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// At all.
    pub all: usize,
    /// For one person.
    pub viewer: usize,
    /// For one address.
    pub address: usize,
}

/// Who holds how many.
#[derive(Default, Debug)]
struct Held {
    all: usize,
    by: HashMap<Payer, usize>,
}

/// See the module.
#[derive(Debug)]
pub struct Places {
    room: Room,
    held: Mutex<Held>,
}

/// One of the connections that stay open, while it is held.
#[derive(Debug)]
pub struct Socket {
    places: Arc<Places>,
    transport: &'static str,
    holders: Vec<Payer>,
}

impl Places {
    /// So many.
    pub fn new(room: Room) -> Arc<Self> {
        Arc::new(Self { room, held: Mutex::default() })
    }

    /// A place for somebody at this address, if there is one.
    pub fn take(self: &Arc<Self>, transport: &'static str, address: Payer) -> Result<Socket, Refusal> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= self.room.all {
            let most = self.room.all;
            let message = format!("This server holds max_sockets = {most} open connections already. Try again later.");
            return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "max_sockets", most, most, message));
        }
        let mut holders = Vec::with_capacity(2);
        if address != Payer::Unknown {
            self.hold(&mut held, address)?;
            holders.push(address);
        }
        held.all += 1;
        drop(held);
        gauge!("oriel_sockets", "transport" => transport).increment(1.0);
        Ok(Socket { places: Arc::clone(self), transport, holders })
    }

    fn hold(&self, held: &mut Held, holder: Payer) -> Result<(), Refusal> {
        let (name, most, whose) = match holder {
            Payer::Person(_) | Payer::Key(..) => ("max_sockets_per_viewer", self.room.viewer, "You hold"),
            Payer::Address(_) | Payer::Unknown => ("max_sockets_per_address", self.room.address, "Your address holds"),
        };
        let count = held.by.get(&holder).copied().unwrap_or_default();
        if count >= most {
            let message = format!(
                "{whose} {name} = {most} open connections already, and this would be one more. Close some, or run \
                 several operations on one WebSocket."
            );
            return Err(refuse(StatusCode::TOO_MANY_REQUESTS, name, most, count + 1, message));
        }
        held.by.insert(holder, count + 1);
        Ok(())
    }

    /// How many are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl HttpState {
    /// A place among the open connections for this caller, if there is one.
    pub fn socket(&self, transport: &'static str, who: &Who) -> Result<Socket, Refusal> {
        let mut socket = self.places.take(transport, who.address())?;
        socket.belong_to(who)?;
        Ok(socket)
    }
}

impl Socket {
    /// From now on it is theirs, too, if somebody is signed in and may have one more.
    pub fn belong_to(&mut self, who: &Who) -> Result<(), Refusal> {
        match who.payer() {
            person @ (Payer::Person(_) | Payer::Key(..)) => self.hold(person),
            Payer::Address(_) | Payer::Unknown => Ok(()),
        }
    }

    fn hold(&mut self, person: Payer) -> Result<(), Refusal> {
        if self.holders.contains(&person) {
            return Ok(());
        }
        self.places.hold(&mut self.places.held.lock().unwrap_or_else(PoisonError::into_inner), person)?;
        self.holders.push(person);
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        for holder in &self.holders {
            if let Some(count) = held.by.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    held.by.remove(holder);
                }
            }
        }
        drop(held);
        gauge!("oriel_sockets", "transport" => self.transport).decrement(1.0);
    }
}

fn refuse(status: StatusCode, name: &'static str, most: usize, found: usize, message: String) -> Refusal {
    Refusal::limit(status, name, most as u64, message).found(found as u64).after(AGAIN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn person(number: u128) -> Payer {
        Payer::Person(Uuid::from_u128(number))
    }

    fn at(text: &str) -> Payer {
        Payer::at(Some(text.parse().unwrap()))
    }

    #[test]
    fn each_has_as_many_as_the_settings_say_and_gets_them_back() {
        let places = Places::new(Room { all: 4, viewer: 2, address: 3 });
        let take = |person: Option<Payer>, address| {
            let mut socket = places.take("websocket", address)?;
            person.map_or(Ok(()), |person| socket.hold(person))?;
            Ok(socket)
        };
        let refused = |taken: Result<Socket, Refusal>| {
            let error: serde_json::Value = serde_json::to_value(taken.unwrap_err().error().extensions).unwrap();
            assert_eq!((&error["code"], &error["retryAfter"]), (&"LIMIT_EXCEEDED".into(), &5.into()));
            error["limit"].as_str().unwrap().to_owned()
        };
        let first = take(Some(person(1)), at("192.0.2.1")).unwrap();
        let second = take(Some(person(1)), at("192.0.2.2")).unwrap();
        assert_eq!(refused(take(Some(person(1)), at("192.0.2.3"))), "max_sockets_per_viewer");
        assert_eq!(places.held(), 2, "what was refused holds nothing");
        drop(second);
        let third = take(Some(person(1)), at("192.0.2.1")).unwrap();
        let fourth = take(Some(person(2)), at("192.0.2.1")).unwrap();
        assert_eq!(refused(take(None, at("192.0.2.1"))), "max_sockets_per_address");
        let fifth = take(None, Payer::Unknown).unwrap();
        assert_eq!(refused(take(None, at("192.0.2.9"))), "max_sockets");
        drop((first, third, fourth, fifth));
        let held = places.held.lock().unwrap();
        assert!(held.all == 0 && held.by.is_empty(), "{held:?}");
    }

    #[test]
    fn signing_in_twice_on_one_socket_is_once() {
        let places = Places::new(Room { all: 9, viewer: 1, address: 9 });
        let mut socket = places.take("websocket", at("2001:db8::1")).unwrap();
        socket.hold(person(1)).unwrap();
        socket.hold(person(1)).unwrap();
        let mut other = places.take("sse", at("2001:db8::1")).unwrap();
        assert!(other.hold(person(1)).is_err());
    }
}
