//! The clock, so that tests can have their own.

use std::time::SystemTime;
use waxseal_trail::statement;
use waxseal_trail::time::Time;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Time;

    /// What it says of itself; `None` where it cannot be asked.
    fn quality(&self) -> Option<statement::Clock> {
        None
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // this is where the time comes in
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Time::from_unix(seconds, since.subsec_nanos()).unwrap_or(Time::MAX)
    }

    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn quality(&self) -> Option<statement::Clock> {
        // SAFETY: timex is integers only, for which zeros are values.
        let mut t: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: t is a whole timex; with no modes set the call reads and changes nothing.
        if unsafe { libc::adjtimex(&raw mut t) } < 0 {
            return None;
        }
        Some(statement::Clock {
            synchronized: t.status & libc::STA_UNSYNC == 0,
            // The kernel's bound is in microseconds and ends at 16 s.
            max_error_ns: u64::try_from(t.maxerror).ok()?.checked_mul(1000)?,
        })
    }
}
