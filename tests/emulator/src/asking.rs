//! Questions to the owner: DMA_READ and DMA_WRITE, for memory that it mapped without a file.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jalapeno_wire as wire;
use zerocopy::{FromBytes, IntoBytes};

use crate::gate::Gate;
use crate::host::Refusal;
use crate::slot::Asked;
use crate::stream::send;

/// How long the owner may take to answer.
const ASK_TIME: Duration = Duration::from_secs(1);
/// How often a waiting engine looks whether somebody wants it out of the gate.
const LOOK_TIME: Duration = Duration::from_millis(5);

/// The side of a connection that asks.
#[derive(Debug)]
pub struct Asking {
    stream: Arc<UnixStream>,
    sending: Arc<Mutex<()>>,
    next: AtomicU16,
    /// Most bytes the client takes or gives at once.
    largest: usize,
    /// One question at a time.
    turn: Mutex<()>,
    silenced: AtomicU32,
    state: Mutex<State>,
    changed: Condvar,
}

/// At most one question is open, so at most one answer is kept: a client that answers what nobody
/// asked fills no memory.
#[derive(Debug)]
enum State {
    Silent,
    Awaits { id: u16, command: u16 },
    Answered(Option<Vec<u8>>),
    Closed,
}

impl Asking {
    /// Asks over this stream; whoever sends on it holds `sending`.
    #[must_use]
    pub fn new(stream: Arc<UnixStream>, sending: Arc<Mutex<()>>, largest: usize) -> Self {
        Self {
            stream,
            sending,
            next: AtomicU16::new(1),
            largest,
            turn: Mutex::default(),
            silenced: AtomicU32::new(0),
            state: Mutex::new(State::Silent),
            changed: Condvar::new(),
        }
    }

    /// An answer came. One that nobody waits for (it is late, or made up) is passed over.
    pub fn answer(&self, header: &wire::Header, body: &[u8]) {
        let mut state = self.state();
        if let State::Awaits { id, command } = *state
            && (header.id, header.command) == (id, command)
        {
            let good = header.flags & wire::FLAG_ERROR == 0;
            *state = State::Answered(good.then(|| body.to_vec()));
            self.changed.notify_all();
        }
    }

    /// Breaks off the open question and asks none while `body` runs. The body waits for the engine,
    /// and the engine would wait for the thread that runs it to take the answer.
    pub fn while_silent<T>(&self, body: impl FnOnce() -> T) -> T {
        self.silenced.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
        let result = body();
        self.silenced.fetch_sub(1, Ordering::Release);
        result
    }

    fn is_silenced(&self) -> bool {
        self.silenced.load(Ordering::Acquire) > 0
    }

    /// No answer will come any more.
    pub fn close(&self) {
        *self.state() = State::Closed;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one question; the answer's body.
    fn ask(
        &self,
        command: u16,
        address: u64,
        count: usize,
        data: &[u8],
        gate: &Gate,
    ) -> Result<Vec<u8>, Refusal> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = self.state();
            if matches!(*state, State::Closed) || self.is_silenced() {
                return Err(Refusal::Broken);
            }
            *state = State::Awaits { id, command };
        }
        let access = wire::DmaAccess {
            address,
            count: count as u64,
        };
        let header = wire::Header {
            id,
            command,
            ..Default::default()
        };
        let sent = {
            let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            send(&self.stream, header, [access.as_bytes(), data], &[])
        };
        let answer = match sent {
            Ok(()) => self.wait(gate),
            Err(_) => None,
        };
        let mut state = self.state();
        if !matches!(*state, State::Closed) {
            *state = State::Silent;
        }
        answer.ok_or(Refusal::Broken)
    }

    fn wait(&self, gate: &Gate) -> Option<Vec<u8>> {
        let until = Instant::now() + ASK_TIME;
        let mut state = self.state();
        loop {
            match &mut *state {
                State::Answered(body) => return body.take(),
                State::Closed | State::Silent => return None,
                // The one who would answer waits for us to leave: it comes first.
                State::Awaits { .. } if gate.wanted() || self.is_silenced() => return None,
                State::Awaits { .. } if Instant::now() > until => return None,
                State::Awaits { .. } => {}
            }
            let waited = self.changed.wait_timeout(state, LOOK_TIME);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The data of a good answer to a question for `count` bytes at `address`.
fn data(body: &[u8], address: u64, count: usize) -> Result<&[u8], Refusal> {
    let (head, data) = wire::DmaAccess::read_from_prefix(body).map_err(|_| Refusal::Broken)?;
    let same = head.address == address && head.count == count as u64;
    if same { Ok(data) } else { Err(Refusal::Broken) }
}

impl Asked for Asking {
    fn read(&self, address: u64, into: &mut [u8], gate: &Gate) -> Result<(), Refusal> {
        let mut at = address;
        for piece in into.chunks_mut(self.largest) {
            let body = self.ask(wire::command::DMA_READ, at, piece.len(), &[], gate)?;
            let data = data(&body, at, piece.len())?;
            if data.len() != piece.len() {
                return Err(Refusal::Broken);
            }
            piece.copy_from_slice(data);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8], gate: &Gate) -> Result<(), Refusal> {
        let mut at = address;
        for piece in from.chunks(self.largest) {
            let mut body = self.ask(wire::command::DMA_WRITE, at, piece.len(), piece, gate)?;
            // The protocol's document gives this reply a count of 4 bytes, and every other message
            // one of 8: both are taken.
            if body.len() == 12 {
                body.resize(16, 0);
            }
            if !data(&body, at, piece.len())?.is_empty() {
                return Err(Refusal::Broken);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}
