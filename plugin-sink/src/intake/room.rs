//! What all intakes together may hold in memory of requests that have not been answered.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for.
const UNIT: usize = 64 << 10;
/// How often room is asked for by whoever holds some.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a request waits for room.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A number of bytes that requests share.
#[derive(Clone)]
pub struct Room {
    permits: Arc<Semaphore>,
    units: usize,
}

/// Bytes of a [`Room`] that a request holds until this is dropped.
pub struct Held {
    permit: OwnedSemaphorePermit,
}

/// There was no room in time: the sender is to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are held in memory at once")]
pub struct Busy;

impl Held {
    /// Gives so many of its bytes to another owner; all of them, if it has not more.
    pub fn split(&mut self, bytes: usize) -> Held {
        let units = units_of(bytes).min(self.permit.num_permits());
        match self.permit.split(units) {
            Some(permit) => Held { permit },
            // Not so, since it has that many.
            None => unreachable!("a permit has fewer than it has"),
        }
    }
}

fn units_of(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).max(1)
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Room {
        let units = units_of(bytes);
        Room { permits: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits for room. Whoever wants more than there is at all gets all of it.
    ///
    /// # Errors
    /// [`Busy`].
    pub async fn take(&self, bytes: usize) -> Result<Held, Busy> {
        let units = u32::try_from(units_of(bytes).min(self.units)).unwrap_or(u32::MAX);
        let acquired = tokio::time::timeout(PATIENCE, self.permits.clone().acquire_many_owned(units)).await;
        match acquired {
            Ok(Ok(permit)) => Ok(Held { permit }),
            _ => Err(Busy),
        }
    }

    /// Makes what is held as large as `bytes`, now or not: whoever holds something waits for nobody, since that one may
    /// wait for him.
    ///
    /// # Errors
    /// [`Busy`]; what was held is held still.
    pub fn resize(&self, held: &mut Held, bytes: usize) -> Result<(), Busy> {
        let (have, want) = (held.permit.num_permits(), units_of(bytes).min(self.units));
        if want > have {
            let more = u32::try_from(want - have).unwrap_or(u32::MAX);
            held.permit.merge(self.permits.clone().try_acquire_many_owned(more).map_err(|_| Busy)?);
        } else {
            drop(held.permit.split(have - want));
        }
        Ok(())
    }

    /// [`Room::resize`], tried for a while.
    ///
    /// # Errors
    /// [`Busy`]; what was held is held still.
    pub async fn grow(&self, held: &mut Held, bytes: usize) -> Result<(), Busy> {
        let tried = async {
            while self.resize(held, bytes).is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::time::timeout(PATIENCE, tried).await.map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_shared_and_comes_back() {
        let room = Room::new(10 * UNIT);
        let mut a = room.take(6 * UNIT).await.unwrap();
        assert_eq!(room.take(6 * UNIT).await.err(), Some(Busy));
        room.resize(&mut a, 2 * UNIT).unwrap();
        let b = room.take(8 * UNIT).await.unwrap();
        assert_eq!(room.resize(&mut a, 3 * UNIT), Err(Busy));
        assert_eq!(room.grow(&mut a, 3 * UNIT).await, Err(Busy));
        drop(b);
        room.grow(&mut a, 3 * UNIT).await.unwrap();
        let b = a.split(2 * UNIT);
        assert_eq!((a.permit.num_permits(), b.permit.num_permits()), (1, 2));
        assert_eq!(a.split(5 * UNIT).permit.num_permits(), 1);
        drop((a, b));
        // More than there is: all of it.
        assert_eq!(room.take(1 << 40).await.unwrap().permit.num_permits(), 10);
    }
}
