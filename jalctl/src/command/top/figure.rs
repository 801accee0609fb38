//! Figures for eyes: few digits, a unit, always as wide as their column.

/// Prefixes of powers of 1000.
const LARGE: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Three digits and a prefix: 7, 640, 1.23 k, 12.3 M.
pub fn count(value: u64) -> String {
    if value < 1000 {
        return value.to_string();
    }
    scaled(value as f64, &LARGE)
}

/// The same with a unit behind the prefix.
pub fn with_unit(value: u64, unit: &str) -> String {
    let words = count(value);
    let gap = if words.contains(' ') { "" } else { " " };
    format!("{words}{gap}{unit}")
}

/// Millionths of a joule.
pub fn microjoules(value: u64) -> String {
    scaled(value as f64, &["uJ", "mJ", "J", "kJ", "MJ", "GJ", "TJ"])
}

/// Billionths of a joule.
pub fn nanojoules(value: u64) -> String {
    scaled(value as f64, &["nJ", "uJ", "mJ", "J", "kJ", "MJ", "GJ"])
}

/// Billionths of a second.
pub fn nanoseconds(value: u64) -> String {
    scaled(value as f64, &["ns", "us", "ms", "s"])
}

/// Thousandths of a watt, without the unit.
pub fn watts(value: u64) -> String {
    let watts = value as f64 / 1000.0;
    if watts < 99.95 {
        format!("{watts:.1}")
    } else {
        format!("{watts:.0}")
    }
}

/// Thousandths of a degree.
pub fn celsius(value: i64) -> String {
    format!("{:.0} \u{b0}C", value as f64 / 1000.0)
}

/// Thousandths of the whole. Little is not nothing.
pub fn share(per_mille: u64) -> String {
    match per_mille {
        1..=4 => "<1 %".into(),
        _ => format!("{} %", (per_mille + 5) / 10),
    }
}

/// Bytes in use of those that there are, in one unit where that tells enough: 12.3/201 GiB.
pub fn bytes_of(used: Option<u64>, total: Option<u64>) -> Option<String> {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = |bytes: u64| {
        (2..=UNITS.len())
            .take_while(|power| bytes >> (10 * power) > 0)
            .count()
    };
    let part =
        |bytes: u64, power: usize| digits(bytes as f64 / (1_u64 << (10 * power + 10)) as f64);
    let (Some(used), Some(total)) = (used, total) else {
        let one = |bytes: Option<u64>| {
            bytes.map_or("-".into(), |it| {
                format!("{} {}", part(it, power(it)), UNITS[power(it)])
            })
        };
        used.or(total)?;
        return Some(format!("{}/{}", one(used), one(total)));
    };
    let (own, unit) = (power(used), power(total));
    let whole = format!("{} {}", part(total, unit), UNITS[unit]);
    Some(match part(used, unit) {
        nothing if used > 0 && nothing.starts_with("0.0") => {
            format!("{} {}/{whole}", part(used, own), UNITS[own])
        }
        part => format!("{part}/{whole}"),
    })
}

/// Three digits, without a fraction that is nothing.
fn digits(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let words = match unit {
        0 => format!("{value:.0}"),
        _ => digits(value),
    };
    format!("{words} {}", units[unit])
}

/// Eighths of a cell.
const EIGHTHS: [char; 9] = [
    ' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
    '\u{2588}',
];
const PARTS: [char; 9] = [
    ' ', '\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}',
    '\u{2588}',
];

/// A history, the newest last, in this many cells; a moment of which nothing is known is a dot.
pub fn sparkline(per_mille: impl DoubleEndedIterator<Item = Option<u64>>, cells: usize) -> String {
    let newest: Vec<char> = per_mille
        .rev()
        .take(cells)
        .map(|share| match share.map(|share| share.min(1000)) {
            None => '\u{b7}',
            // Little is not nothing.
            Some(share) => EIGHTHS[usize::try_from(share.div_ceil(125)).unwrap_or(8)],
        })
        .collect();
    let blank = std::iter::repeat_n(' ', cells - newest.len());
    blank.chain(newest.into_iter().rev()).collect()
}

/// A bar of this many cells.
pub fn bar(per_mille: u64, cells: usize) -> String {
    let eighths = (usize::try_from(per_mille.min(1000)).unwrap_or(1000) * cells * 8).div_ceil(1000);
    (0..cells)
        .map(|cell| PARTS[eighths.saturating_sub(cell * 8).min(8)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        for (value, words) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00 k"),
            (12_345, "12.3 k"),
            (999_499, "999 k"),
            (999_500, "1.00 M"),
            (u64::MAX, "18.4 E"),
        ] {
            assert_eq!(count(value), words);
        }
        assert_eq!(with_unit(7, "B/s"), "7 B/s");
        assert_eq!(with_unit(3_400_000_000, "B/s"), "3.40 GB/s");
        assert_eq!(nanojoules(3_100_000), "3.10 mJ");
        assert_eq!(microjoules(812_345_678), "812 J");
        assert_eq!(nanoseconds(950), "950 ns");
        assert_eq!(nanoseconds(90_000_000_000), "90.0 s");
        assert_eq!(nanoseconds(9_000_000_000_000), "9000 s");
        assert_eq!(
            (watts(75_040), watts(123_400)),
            ("75.0".into(), "123".into())
        );
        assert_eq!(celsius(-1_600), "-2 \u{b0}C");
        assert_eq!(
            (share(0), share(1), share(996)),
            ("0 %".into(), "<1 %".into(), "100 %".into())
        );
    }

    #[test]
    fn memory_is_told_in_one_unit() {
        let gib = 1 << 30;
        let told = |used, total| bytes_of(used, total);
        assert_eq!(
            told(Some(0), Some(216_000_000_000)),
            Some("0/201 GiB".into())
        );
        assert_eq!(
            told(Some(13 * gib / 10), Some(64 * gib)),
            Some("1.30/64.0 GiB".into())
        );
        assert_eq!(told(None, Some(64 << 20)), Some("-/64.0 MiB".into()));
        assert_eq!(told(Some(64 << 20), None), Some("64.0 MiB/-".into()));
        assert_eq!(told(None, None), None);
        assert_eq!(
            told(Some(6_800_000), Some(64 * gib)),
            Some("6.48 MiB/64.0 GiB".into())
        );
        assert_eq!(
            told(Some(1 << 60), Some(u64::MAX)),
            Some("1024/16384 PiB".into())
        );
    }

    #[test]
    fn histories_tell_nothing_from_unknown_from_little() {
        let points = [Some(0), None, Some(1), Some(500), Some(5000)];
        assert_eq!(
            sparkline(points.into_iter(), 7),
            "   \u{b7}\u{2581}\u{2584}\u{2588}"
        );
        assert_eq!(sparkline(points.into_iter(), 2), "\u{2584}\u{2588}");
        assert_eq!(bar(0, 4), "    ");
        assert_eq!(bar(1, 4), "\u{258f}   ");
        assert_eq!(bar(500, 3), "\u{2588}\u{258c} ");
        assert_eq!(bar(9999, 2), "\u{2588}\u{2588}");
    }
}
