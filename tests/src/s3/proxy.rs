//! A TCP proxy on loopback that cuts connections: faults that are not our own double's.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A running proxy.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Each connection is cut after at most so many bytes; 0: none is.
    pub within: Arc<AtomicU64>,
    /// Connections cut.
    pub cut: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts one in front of `target`.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (within, cut, stop): (Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicBool>) = Default::default();
        let (w, c, s) = (within.clone(), cut.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut random = 0x2545_f491_4f6c_dd1d_u64;
            for stream in listener.incoming() {
                if s.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (stream, TcpStream::connect(target)) else { continue };
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let n = w.load(Ordering::Relaxed);
                // After so many bytes of either direction: in a request's head, in its body, or in the answer, of which
                // there is less.
                let after = (n > 0).then(|| (random >> 8) % n);
                let upward = !(random >> 40).is_multiple_of(2);
                let count = c.clone();
                pump(&client, &server, after.filter(|_| upward), count.clone());
                pump(&server, &client, after.filter(|_| !upward).map(|a| a / 10), count);
            }
        });
        Proxy { address, within, cut, stop }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn pump(from: &TcpStream, to: &TcpStream, cut_after: Option<u64>, count: Arc<AtomicU64>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        let mut passed = 0u64;
        loop {
            let n = match from.read(&mut buffer) {
                Ok(n) if n > 0 => n,
                _ => break,
            };
            if let Some(after) = cut_after
                && passed + n as u64 > after
            {
                let some = usize::try_from(after.saturating_sub(passed)).unwrap_or(n).min(n);
                let _ = to.write_all(&buffer[..some]);
                count.fetch_add(1, Ordering::Relaxed);
                break;
            }
            passed += n as u64;
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
