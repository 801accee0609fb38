//! Keys: what a terminal sends, in bytes, as what its user pressed.

/// A key that means something to `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    First,
    Last,
    Enter,
    Back,
    Quit,
    Pause,
    Faster,
    Slower,
    Help,
}

/// The keys of what was read at once. A sequence that is unknown means nothing, nor do its letters.
pub fn read(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        let (key, length) = match (first, rest) {
            (0x1B, [b'[' | b'O', rest @ ..]) => sequence(rest),
            (0x1B, _) => (Some(Key::Back), 0),
            _ => (plain(*first), 0),
        };
        keys.extend(key);
        bytes = &rest[length.min(rest.len())..];
    }
    keys
}

/// What follows ESC and [ or O: parameters, then one byte that ends it. Its length counts the [ too.
fn sequence(rest: &[u8]) -> (Option<Key>, usize) {
    let end = rest.iter().position(|byte| (0x40..=0x7E).contains(byte));
    let Some(end) = end else {
        return (None, rest.len() + 1);
    };
    let key = match &rest[..=end] {
        b"A" => Some(Key::Up),
        b"B" => Some(Key::Down),
        b"C" => Some(Key::Enter),
        b"D" => Some(Key::Back),
        b"H" | b"1~" => Some(Key::First),
        b"F" | b"4~" => Some(Key::Last),
        _ => None,
    };
    (key, end + 2)
}

fn plain(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' | b'Q' | 0x03 => Key::Quit, // Ctrl-C is a byte in raw mode
        b'\r' | b'\n' => Key::Enter,
        0x7F | 0x08 => Key::Back,
        b'k' => Key::Up,
        b'j' => Key::Down,
        b'g' => Key::First,
        b'G' => Key::Last,
        b'p' | b' ' => Key::Pause,
        b'+' | b'=' => Key::Slower,
        b'-' => Key::Faster,
        b'?' | b'h' => Key::Help,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_whatever_came_with_them() {
        for (bytes, keys) in [
            (&b"q"[..], &[Key::Quit][..]),
            (b"\x03", &[Key::Quit]),
            (b"\x1b[A\x1b[B\x1bOA", &[Key::Up, Key::Down, Key::Up]),
            (b"\x1b", &[Key::Back]),
            (b"\x1b\x1b[B", &[Key::Back, Key::Down]),
            (b"jp+", &[Key::Down, Key::Pause, Key::Slower]),
            (
                b"\x1b[1~\x1b[4~\x1b[H",
                &[Key::First, Key::Last, Key::First],
            ),
            // F5, a mouse, a cut sequence, other languages: nothing, and no letter of them.
            (b"\x1b[15~", &[]),
            (b"\x1b[<0;12;7M", &[]),
            (b"\x1b[1;5", &[]),
            (b"\x1b[", &[]),
            ("\u{e9}\u{4e2d}".as_bytes(), &[]),
            (b"", &[]),
        ] {
            assert_eq!(read(bytes), keys, "{bytes:?}");
        }
    }
}
