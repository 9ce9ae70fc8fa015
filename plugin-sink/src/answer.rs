//! The answer to a chunk that was handed over: given once, waited for by a thread or by a task.

use crate::chain::{Receipt, Refusal};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What became of a chunk.
pub type Answer = Result<Receipt, Refusal>;

/// How long a client is kept waiting for its answer: with `acknowledge: stored` the store may be away for hours. It tries
/// again, and is recognised.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Slot {
    state: Mutex<State>,
    given: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, answer: Answer) {
        let mut state = self.lock();
        if state.answer.is_none() {
            state.answer = Some(answer);
            self.given.notify_all();
            if let Some(waker) = state.waker.take() {
                drop(state);
                waker.wake();
            }
        }
    }
}

/// Who answers and who waits.
pub fn pair() -> (Reply, Pending) {
    let slot = Arc::<Slot>::default();
    (Reply(slot.clone()), Pending(slot))
}

/// The side that answers. Dropped without a word it says [`Refusal::Failing`]: nobody waits for ever.
pub struct Reply(Arc<Slot>);

impl Reply {
    /// Answers; what was said first stands.
    pub fn tell(&self, answer: Answer) {
        self.0.give(answer);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.0.give(Err(Refusal::Failing));
    }
}

/// A chunk that has been handed over. As a future it waits without a bound; [`Pending::wait`] for [`PATIENCE`].
pub struct Pending(Arc<Slot>);

impl Pending {
    /// Waits on this thread.
    ///
    /// # Errors
    /// [`Refusal`]: it has to be sent again, unless it turns out to be durable, which its key tells.
    pub fn wait(self) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        loop {
            if let Some(answer) = state.answer {
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refusal::Failing);
            }
            state = self.0.given.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Future for Pending {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.0.lock();
        match state.answer {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: Receipt = Receipt { accepted: 1, unparsed: 0, redelivered: false, end: 1 };

    #[test]
    fn a_thread_and_a_task_hear_it_once() {
        let (reply, pending) = pair();
        let waiting = std::thread::spawn(move || pending.wait());
        reply.tell(Ok(RECEIPT));
        reply.tell(Err(Refusal::Full));
        assert_eq!(waiting.join().unwrap(), Ok(RECEIPT));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (reply, pending) = pair();
        std::thread::scope(|s| {
            s.spawn(|| reply.tell(Ok(RECEIPT)));
            assert_eq!(runtime.block_on(pending), Ok(RECEIPT));
        });
        // Nobody waits for one who is gone.
        let (reply, pending) = pair();
        drop(reply);
        assert_eq!(pending.wait(), Err(Refusal::Failing));
    }
}
