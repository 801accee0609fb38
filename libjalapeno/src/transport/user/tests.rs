//! The client against a server that plays bytes written by hand from the protocol's document.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jalapeno_stopwatch::calmly;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::socket::Socket;
use super::{Role, User};
use crate::error::{Code, Error};
use crate::transport::Transport;
use crate::units::Iova;

/// Replies are awaited this long here.
const REPLY_TIME: Duration = Duration::from_millis(200);

fn le(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A reply to `request`: id and command repeated, length, type 1, no error.
fn reply(request: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap();
    [&request[..4], &le(&[length, 1, 0]), body].concat()
}

fn refusal(request: &[u8], errno: u32) -> Vec<u8> {
    [&request[..4], &le(&[16, 1 | 1 << 5, errno])].concat()
}

/// What a good server answers.
fn good(request: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
    match request[2] {
        1 => reply(
            request,
            b"\x00\x00\x01\x00{\"capabilities\":{\"max_dma_maps\":7}}\0",
        ),
        3 => reply(request, &request[16..40]),
        4 => reply(request, &le(&[16, 3, 9, 5])),
        5 => {
            let bytes = if word(24) == 0 { 0x4_0000 } else { 0 };
            reply(request, &le(&[32, 3, word(24), 0, bytes, 0, 0, 0]))
        }
        7 => reply(request, &le(&[16, 1, 2, 17])),
        9 => {
            let count = word(28) as usize;
            let data: Vec<u8> = (0x51..=0xFF).cycle().take(count).collect();
            reply(request, &[&request[16..32], &data].concat())
        }
        10 => reply(request, &request[16..32]),
        _ => reply(request, &[]),
    }
}

/// How the bytes of all replies travel.
#[derive(Clone, Copy)]
enum Delivery {
    Whole,
    /// One byte a write.
    Drip,
    /// The connection ends after so many bytes.
    Cut(usize),
}

/// Serves one connection; gives the bytes sent.
fn serve(
    mut stream: UnixStream,
    delivery: Delivery,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut sent = 0;
        loop {
            let mut request = vec![0; 16];
            if stream.read_exact(&mut request).is_err() {
                return sent;
            }
            let length = u32::from_le_bytes(request[4..8].try_into().unwrap()) as usize;
            request.resize(length, 0);
            if stream.read_exact(&mut request[16..]).is_err() {
                return sent;
            }
            for piece in answer(&request).chunks(match delivery {
                Delivery::Whole => usize::MAX,
                Delivery::Drip | Delivery::Cut(_) => 1,
            }) {
                if matches!(delivery, Delivery::Cut(at) if at == sent)
                    || stream.write_all(piece).is_err()
                {
                    return sent;
                }
                sent += piece.len();
            }
        }
    })
}

fn open(
    delivery: Delivery,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> (Result<User, Error>, JoinHandle<usize>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = serve(theirs, delivery, answer);
    let socket = Socket::over(ours, REPLY_TIME).unwrap();
    (User::over(socket, "test".into(), Role::Owner), server)
}

fn read4(user: &User) -> Result<[u8; 4], Error> {
    let mut word = [0; 4];
    user.read(0, 0x40, &mut word).map(|()| word)
}

#[test]
fn a_server_that_sends_one_byte_at_a_time_is_understood() {
    calmly(|| {
        let (user, server) = open(Delivery::Drip, good);
        let user = user.unwrap();
        assert_eq!(user.describe().bars, [0x4_0000, 0, 0, 0, 0, 0]);
        assert_eq!(
            (user.describe().vectors, user.describe().maps_limit),
            (17, 7)
        );
        assert_eq!(read4(&user).unwrap(), [0x51, 0x52, 0x53, 0x54]);
        user.write(0, 0x80, &[1, 0, 0, 0]).unwrap();
        user.unmap_dma(Iova(0x10_0000), 0x1000).unwrap();
        user.reset().unwrap();
        assert!(!user.is_lost());
        drop(user);
        server.join().unwrap();
    });
}

#[test]
fn a_connection_that_ends_at_any_byte_is_a_lost_device_and_never_a_hang() {
    calmly(|| {
        let (user, server) = open(Delivery::Whole, good);
        let user = user.unwrap();
        read4(&user).unwrap();
        drop(user);
        let all = server.join().unwrap();
        assert!(all > 250, "{all} bytes");
        for at in 0..all {
            let begin = Instant::now();
            let (user, server) = open(Delivery::Cut(at), good);
            match user {
                Err(error) => {
                    let code = error.code();
                    assert!(
                        matches!(code, Code::Lost | Code::NotFound),
                        "byte {at}: {error}"
                    );
                }
                Ok(user) => {
                    assert_eq!(read4(&user).unwrap_err().code(), Code::Lost, "byte {at}");
                    assert_eq!(user.reset().unwrap_err().code(), Code::Lost);
                    assert!(user.is_lost());
                }
            }
            assert!(
                begin.elapsed() < REPLY_TIME,
                "byte {at}: {:?}",
                begin.elapsed()
            );
            assert_eq!(server.join().unwrap(), at);
        }
    });
}

#[test]
fn a_malformed_reply_ends_the_connection_whatever_is_wrong_with_it() {
    calmly(|| {
        type Mutation = fn(&mut Vec<u8>);
        let table: [(&str, Mutation); 14] = [
            ("another id", |r| r[0] ^= 1),
            ("another command", |r| r[2] = 10),
            ("type 2", |r| r[8] = 2),
            ("type 15", |r| r[8] = 15),
            ("shorter than a header", |r| r[4] = 15),
            ("length 0", |r| r[4] = 0),
            ("length 4 GiB", |r| r[4..8].fill(0xFF)),
            ("length 2 MiB", |r| r[6] = 0x20),
            ("half the data", |r| {
                r[4] = 34;
                r.truncate(34);
            }),
            ("no body", |r| {
                r[4] = 16;
                r.truncate(16);
            }),
            ("more data than asked", |r| {
                r[4] = 40;
                r.extend([0; 4]);
            }),
            ("another offset", |r| r[16] ^= 4),
            ("another count", |r| r[28] = 2),
            ("an error with a body", |r| r[8] = 0x21),
        ];
        for (what, mutate) in table {
            let (user, server) = open(Delivery::Whole, move |request| {
                let mut bytes = good(request);
                if request[2] == 9 {
                    mutate(&mut bytes);
                }
                bytes
            });
            let user = user.unwrap();
            let error = read4(&user).unwrap_err();
            assert_eq!(error.code(), Code::Lost, "{what}: {error}");
            assert!(user.is_lost(), "{what}");
            assert_eq!(
                read4(&user).unwrap_err().code(),
                Code::Lost,
                "{what}, again"
            );
            server.join().unwrap(); // it saw the hang-up although the client still lives
        }
    });
}

#[test]
fn a_malformed_greeting_or_description_is_refused_at_the_door() {
    calmly(|| {
        type Mutation = fn(&mut Vec<u8>);
        let table: [(u8, &str, Code, Mutation); 8] = [
            (1, "major 1", Code::Version, |r| r[16] = 1),
            (1, "minor 2", Code::Version, |r| r[18] = 2),
            (1, "no JSON", Code::NotFound, |r| r[20] = b'['),
            (1, "no version", Code::NotFound, |r| {
                r[4] = 18;
                r.truncate(18);
            }),
            (1, "HTTP", Code::NotFound, |r| {
                *r = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()
            }),
            (4, "no PCI function", Code::NotFound, |r| r[20] = 1),
            (5, "another region", Code::Lost, |r| r[24] ^= 1),
            (5, "a BAR of 3 bytes", Code::Lost, |r| r[32] = 3),
        ];
        for (command, what, code, mutate) in table {
            let (user, server) = open(Delivery::Whole, move |request| {
                let mut bytes = good(request);
                if request[2] == command {
                    mutate(&mut bytes);
                }
                bytes
            });
            let error = user.unwrap_err();
            assert_eq!(error.code(), code, "{what}: {error}");
            server.join().unwrap();
        }
    });
}

#[test]
fn descriptors_nobody_asked_for_end_the_connection_and_are_closed() {
    calmly(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (watched, sent) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut theirs = theirs;
            let mut request = [0; 16];
            theirs.read_exact(&mut request).unwrap();
            let length = u32::from_le_bytes(request[4..8].try_into().unwrap()) as usize;
            theirs.read_exact(&mut vec![0; length - 16]).unwrap();
            let bytes = good(&request);
            let fds = [sent.as_raw_fd(); 100];
            let rights = [ControlMessage::ScmRights(&fds)];
            let parts = [std::io::IoSlice::new(&bytes)];
            sendmsg::<()>(theirs.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        });
        let socket = Socket::over(ours, REPLY_TIME).unwrap();
        let error = User::over(socket, "test".into(), Role::Owner).unwrap_err();
        assert!(
            error.to_string().contains("100 file descriptors"),
            "{error}"
        );
        server.join().unwrap();
        // Every copy of the other end is closed: reading gives the end, not a timeout.
        watched
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        assert_eq!((&watched).read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn a_silent_and_a_dripping_server_are_given_up_by_the_deadline() {
    calmly(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        let socket = Socket::over(ours, REPLY_TIME).unwrap();
        let error = User::over(socket, "test".into(), Role::Owner).unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
        assert!(begin.elapsed() >= REPLY_TIME);
        assert!(begin.elapsed() < REPLY_TIME * 2 + Duration::from_millis(50));
        drop(theirs);

        let (user, server) = open(Delivery::Drip, |request| {
            if request[2] == 9 {
                std::thread::sleep(REPLY_TIME * 3);
            }
            good(request)
        });
        let user = user.unwrap();
        let begin = Instant::now();
        assert_eq!(read4(&user).unwrap_err().code(), Code::Lost);
        assert!(begin.elapsed() < REPLY_TIME * 2 + Duration::from_millis(50));
        server.join().unwrap();
    });
}

#[test]
fn a_refusal_is_an_error_and_the_connection_goes_on() {
    calmly(|| {
        for (errno, kind) in [(22, Some(22)), (0, Some(libc::EIO)), (1, Some(1))] {
            let (user, _server) = open(Delivery::Whole, move |request| {
                if request[2] == 13 {
                    refusal(request, errno)
                } else {
                    good(request)
                }
            });
            let user = user.unwrap();
            match user.reset().unwrap_err() {
                Error::Io { source, .. } => assert_eq!(source.raw_os_error(), kind),
                other => panic!("{other}"),
            }
            assert!(!user.is_lost());
            assert_eq!(read4(&user).unwrap()[0], 0x51);
        }
    });
}

#[test]
fn the_servers_own_requests_are_refused_politely_between_request_and_reply() {
    calmly(|| {
        let (user, server) = open(Delivery::Whole, |request| {
            // DMA_READ of 16 bytes at 0x1000, id 0x0909; its refusal comes back as a "request".
            let own = [&[9, 9, 11, 0][..], &le(&[32, 0, 0, 0x1000, 0, 16, 0])].concat();
            match request[2] {
                9 => [own, good(request)].concat(),
                11 => {
                    assert_eq!(request[..4], [9, 9, 11, 0]);
                    assert_eq!(request[4..16], le(&[16, 0x21, 14])); // reply, error, EFAULT
                    Vec::new()
                }
                _ => good(request),
            }
        });
        let user = user.unwrap();
        for _ in 0..3 {
            assert_eq!(read4(&user).unwrap()[0], 0x51);
        }
        drop(user);
        server.join().unwrap();
    });
}

#[test]
fn a_device_in_use_is_busy() {
    calmly(|| {
        let (user, _server) = open(Delivery::Whole, |request| refusal(request, 16));
        assert_eq!(user.unwrap_err().code(), Code::Busy);
    });
}

#[test]
fn several_threads_take_turns_on_one_connection() {
    calmly(|| {
        let (user, _server) = open(Delivery::Whole, good);
        let user = Arc::new(user.unwrap());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let user = Arc::clone(&user);
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        assert_eq!(read4(&user).unwrap(), [0x51, 0x52, 0x53, 0x54]);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_socket_that_is_absent_dead_or_no_socket_says_which_and_what_to_do() {
    let folder = std::env::temp_dir().join(format!("jalapeno-user-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let dead = folder.join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    let long = folder.join("x".repeat(200));
    for (path, text) in [
        (folder.join("absent"), "there is no such socket"),
        (dead, "its server has ended"),
        (file, "its server has ended"),
        (long, "connect to"),
    ] {
        let error = User::connect(&path, Role::Owner).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
