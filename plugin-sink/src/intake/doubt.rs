//! Which acknowledgements may not have arrived (DESIGN: the sink, rule 5).
//!
//! Two equal requests within a healthy connection are two requests. A request is the same one again if its sender cannot
//! know that the first was taken: no answer was given, the answer was a refusal, or the connection ended after it. For
//! protocols whose sender gives no id of its own, this module says which of the two it is.

use crate::chain::Redelivery;
use crate::known::Recent;
use crate::pipeline::Submitter;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use waxseal_trail::hash::Hash;

/// The last answers of a connection that are in doubt when it ends: more than a client has under way at once.
const LAST: usize = 64;

/// The requests in doubt, and when each was first handed over.
#[derive(Default)]
pub struct Doubts(Mutex<Recent<u64>>);

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Doubts {
    fn note(&self, key: Hash, since: u64) {
        let mut doubts = lock(&self.0);
        if doubts.get(&key.0).is_none() {
            doubts.insert(key.0, since);
        }
    }
}

/// A connection, and what was answered on it last.
pub struct Connection {
    doubts: Arc<Doubts>,
    answered: Mutex<VecDeque<(Hash, u64)>>,
}

impl Connection {
    /// A fresh one.
    pub fn new(doubts: Arc<Doubts>) -> Arc<Connection> {
        Arc::new(Connection { doubts, answered: Mutex::default() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever closed it may not have read what was written last.
        for (key, since) in lock(&self.answered).drain(..) {
            self.doubts.note(key, since);
        }
    }
}

/// A request that has come and is not answered. Dropped so, it is in doubt.
pub struct Delivery {
    connection: Arc<Connection>,
    key: Hash,
    since: u64,
    answered: bool,
}

impl Delivery {
    /// Begins one; says when a request with this key is one that came before.
    pub fn begin(connection: &Arc<Connection>, submitter: &Submitter, key: Hash) -> (Redelivery, Delivery) {
        Delivery::at(connection, submitter.tick(), key)
    }

    fn at(connection: &Arc<Connection>, now: u64, key: Hash) -> (Redelivery, Delivery) {
        let doubted = lock(&connection.doubts.0).get(&key.0).copied();
        let delivery =
            Delivery { connection: connection.clone(), key, since: doubted.unwrap_or(now), answered: false };
        (doubted.map_or(Redelivery::Earlier, Redelivery::Asked), delivery)
    }

    /// Its sender is told that it was taken.
    pub fn answered(mut self) {
        self.answered = true;
        lock(&self.connection.doubts.0).forget(&self.key.0);
        let mut last = lock(&self.connection.answered);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back((self.key, self.since));
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.doubts.note(self.key, self.since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt() {
        let doubts = Arc::<Doubts>::default();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts));
        let key = Hash([7; 32]);
        // New, answered; the same again on a healthy connection is another one.
        let (first, delivery) = Delivery::at(&a, 1, key);
        assert_eq!(first, Redelivery::Earlier);
        delivery.answered();
        let (equal, delivery) = Delivery::at(&b, 2, key);
        assert_eq!(equal, Redelivery::Earlier);
        // That one was cut off.
        drop(delivery);
        let (again, delivery) = Delivery::at(&b, 9, key);
        assert_eq!(again, Redelivery::Asked(2));
        delivery.answered();
        assert_eq!(Delivery::at(&b, 10, key).0, Redelivery::Earlier);
        // The connection of an answer ended: its client may not have read it.
        let other = Hash([8; 32]);
        Delivery::at(&a, 11, other).1.answered();
        drop(a);
        assert_eq!(Delivery::at(&b, 12, other).0, Redelivery::Asked(11));
    }
}
