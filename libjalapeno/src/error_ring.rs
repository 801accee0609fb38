//! The error ring: which packet failed, and why. Host interface 7.
//!
//! A record is copied once and judged on that copy; whatever does not fit is a breach of the
//! specification, named by its code in the catalogue.

use jalapeno_hw::faults::{FAULT_PHASE, FaultCode, FaultRecord};
use jalapeno_hw::packets::{HEADER_ARGUMENT_SHIFT, HEADER_OPCODE, Opcode, Packet};
use zerocopy::IntoBytes;

use crate::error::Fault;
use crate::ring::Rings;

/// What a record must agree with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Records read before.
    pub(crate) index: u64,
    /// The queue's number.
    pub(crate) queue: u32,
    /// The device's generation.
    pub(crate) generation: u64,
    /// The packet at which the queue stopped.
    pub(crate) stopped_at: u64,
    /// The last packet submitted.
    pub(crate) submitted: u64,
}

/// A breach: the catalogue's code, and what was seen.
pub(crate) type Breach = (FaultCode, String);

/// Bytes that the CRC covers.
const CRC_COVERS: usize = 0xF8;

/// Reads and judges the record that is due.
pub(crate) fn read(rings: &Rings, expected: &Expected) -> Result<Fault, Breach> {
    if !rings.is_record_due() {
        return Err((
            FaultCode::RecordMissing,
            format!(
                "queue {} stopped at packet {} without an error record",
                expected.queue, expected.stopped_at
            ),
        ));
    }
    let fault = judge(rings.record(expected.index), expected)?;
    let named = fault.record.sequence;
    // A packet that was submitted holds its slot until its failure is taken in.
    if named != 0 && named <= expected.submitted {
        agree(&fault.record, &rings.packet(named))?;
    }
    Ok(fault)
}

/// Wants a record that says of its packet what stands in the ring. Where it names no opcode the device
/// did not see the packet.
fn agree(record: &FaultRecord, packet: &Packet) -> Result<(), Breach> {
    let opcode = u32::try_from(packet.header & HEADER_OPCODE).unwrap_or(0);
    let launch = opcode == Opcode::Launch.code();
    let kernel = u32::try_from(packet.header >> HEADER_ARGUMENT_SHIFT).unwrap_or(0);
    let agrees = if record.opcode == 0 {
        record.kernel == 0 && (record.cookie == 0 || record.cookie == packet.cookie)
    } else if opcode == Opcode::Indirect.code() {
        // Opcode and kernel are those of a packet of its graph.
        record.cookie == packet.cookie
    } else {
        record.cookie == packet.cookie
            && record.opcode == opcode
            && record.kernel == if launch { kernel } else { 0 }
    };
    if agrees {
        return Ok(());
    }
    let FaultRecord {
        sequence,
        cookie,
        opcode: named,
        kernel: ran,
        ..
    } = *record;
    Err((
        FaultCode::RecordStray,
        format!(
            "an error record of packet {sequence} has cookie {cookie:#x}, opcode {named:#x}, kernel {ran}; \
             submitted were cookie {:#x}, opcode {opcode:#x}, argument {kernel}",
            packet.cookie
        ),
    ))
}

/// The packet that a record names while the completion word does not say "stopped" yet.
pub(crate) fn foretold(rings: &Rings, expected: &Expected) -> Result<u64, Breach> {
    let record = rings.record(expected.index);
    let named = Expected {
        stopped_at: record.sequence,
        ..*expected
    };
    let fault = judge(record, &named)?;
    match fault.record.sequence {
        // A reset may hit a queue that has nothing in flight.
        0 => Ok(expected.submitted + 1),
        beyond if beyond > expected.submitted + 1 => Err((
            FaultCode::RecordStray,
            format!(
                "an error record names packet {beyond}, submitted were {}",
                expected.submitted
            ),
        )),
        failed => Ok(failed),
    }
}

/// Judges one private copy.
fn judge(record: FaultRecord, expected: &Expected) -> Result<Fault, Breach> {
    let corrupt = |what: String| Err((FaultCode::RecordCorrupt, what));
    let mut bare = record;
    bare.flags &= !FAULT_PHASE;
    let crc = crc32fast::hash(bare.as_bytes().get(..CRC_COVERS).unwrap_or_default());
    if crc != record.crc {
        return corrupt(format!(
            "an error record's CRC is {:#010x}, its bytes give {crc:#010x}",
            record.crc
        ));
    }
    if bare.flags != 0 || record.reserved != [0; 14] || record.reserved2 != 0 {
        return corrupt("an error record's reserved fields are not zero".into());
    }
    if record.generation != expected.generation {
        return Err((
            FaultCode::RecordStale,
            format!(
                "an error record of generation {}, this is {}",
                record.generation, expected.generation
            ),
        ));
    }
    if record.index < expected.index {
        return Err((
            FaultCode::RecordStale,
            format!(
                "error record {} where {} is due",
                record.index, expected.index
            ),
        ));
    }
    if record.index > expected.index {
        return corrupt(format!(
            "error record {} where {} is due: the error ring was overrun",
            record.index, expected.index
        ));
    }
    if record.queue != expected.queue {
        return Err((
            FaultCode::RecordStray,
            format!(
                "an error record of queue {} in queue {}'s ring",
                record.queue, expected.queue
            ),
        ));
    }
    // A reset may hit a queue that has nothing in flight: then no packet is named.
    let nameless = record.sequence == 0 && record.code == FaultCode::QueueReset.code();
    if record.sequence != expected.stopped_at && !nameless {
        return Err((
            FaultCode::RecordStray,
            format!(
                "an error record names packet {}, the queue stopped at {}",
                record.sequence, expected.stopped_at
            ),
        ));
    }
    Ok(Fault {
        code: FaultCode::from_code(record.code).ok_or(record.code),
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jalapeno_hw::faults::FAULT_RECORD_BYTES;
    use jalapeno_hw::kernels::KernelId;
    use jalapeno_hw::packets::header;

    const EXPECTED: Expected = Expected {
        index: 5,
        queue: 3,
        generation: 7,
        stopped_at: 100,
        submitted: 120,
    };

    fn sound() -> FaultRecord {
        sealed(FaultRecord {
            code: FaultCode::UnmappedRead.code(),
            flags: FAULT_PHASE,
            sequence: 100,
            generation: 7,
            queue: 3,
            index: 5,
            ..FaultRecord::ZERO
        })
    }

    /// The CRC bit by bit, from the polynomial.
    fn sealed(mut record: FaultRecord) -> FaultRecord {
        let mut bytes = [0; FAULT_RECORD_BYTES];
        bytes.copy_from_slice(record.as_bytes());
        bytes[7] &= !FAULT_PHASE;
        let mut crc = u32::MAX;
        for byte in &bytes[..0xF8] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
        }
        record.crc = !crc;
        record
    }

    fn verdict(record: FaultRecord) -> FaultCode {
        judge(record, &EXPECTED).unwrap_err().0
    }

    #[test]
    fn a_sound_record_tells_the_fault() {
        let fault = judge(sound(), &EXPECTED).unwrap();
        assert_eq!(fault.code, Ok(FaultCode::UnmappedRead));
        let mut unknown = sound();
        unknown.code = 0xABCD;
        let fault = judge(sealed(unknown), &EXPECTED).unwrap();
        assert_eq!(fault.code, Err(0xABCD), "a code we do not know is kept raw");
    }

    #[test]
    fn a_record_of_another_packet_queue_lap_or_generation_is_named_as_such() {
        let with = |change: fn(&mut FaultRecord)| {
            let mut record = sound();
            change(&mut record);
            verdict(sealed(record))
        };
        assert_eq!(with(|r| r.sequence = 99), FaultCode::RecordStray);
        assert_eq!(with(|r| r.sequence = 101), FaultCode::RecordStray);
        assert_eq!(with(|r| r.sequence = 0), FaultCode::RecordStray);
        assert_eq!(with(|r| r.queue = 4), FaultCode::RecordStray);
        assert_eq!(with(|r| r.index = 4), FaultCode::RecordStale);
        assert_eq!(with(|r| r.index = 6), FaultCode::RecordCorrupt);
        assert_eq!(with(|r| r.generation = 6), FaultCode::RecordStale);
        assert_eq!(with(|r| r.reserved[13] = 1), FaultCode::RecordCorrupt);
        assert_eq!(with(|r| r.reserved2 = 1), FaultCode::RecordCorrupt);
        assert_eq!(with(|r| r.flags |= 2), FaultCode::RecordCorrupt);
    }

    #[test]
    fn what_a_record_says_of_its_packet_must_stand_in_the_ring() {
        let packet = |header: u64| Packet {
            header,
            cookie: 77,
            ..Packet::ZERO
        };
        let launch = packet(header(Opcode::Launch, KernelId::Add.code()));
        let fill = packet(header(Opcode::Fill, 0));
        let graph = packet(header(Opcode::Indirect, 9));
        let says = |cookie, opcode: u32, kernel, packet: &Packet| {
            let record = FaultRecord {
                cookie,
                opcode,
                kernel,
                ..sound()
            };
            agree(&record, packet).map_err(|(code, _)| code)
        };
        let (add, mul) = (KernelId::Add.code(), KernelId::Mul.code());
        assert_eq!(says(77, 8, add, &launch), Ok(()));
        assert_eq!(says(77, 4, 0, &fill), Ok(()));
        assert_eq!(says(77, 8, mul, &graph), Ok(()), "a packet of the graph");
        for packet in [&launch, &fill, &graph] {
            assert_eq!(says(0, 0, 0, packet), Ok(()), "it was not seen");
            assert_eq!(says(77, 0, 0, packet), Ok(()));
        }
        let stray = Err(FaultCode::RecordStray);
        for (cookie, opcode, kernel, packet) in [
            (76, 8, add, &launch),
            (0, 8, add, &launch),
            (77, 8, mul, &launch),
            (77, 8, 0, &launch),
            (77, 4, 0, &launch),
            (77, 4, add, &fill),
            (77, 8, add, &fill),
            (76, 0, 0, &fill),
            (77, 0, add, &launch),
            (76, 8, mul, &graph),
        ] {
            let told = says(cookie, opcode, kernel, packet);
            assert_eq!(told, stray, "{cookie} {opcode} {kernel}");
        }
    }

    #[test]
    fn any_flipped_bit_but_the_phase_is_noticed() {
        let good = sound();
        for bit in 0..0xFC * 8 {
            let mut bytes = [0u8; FAULT_RECORD_BYTES];
            bytes.copy_from_slice(good.as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let torn: FaultRecord = zerocopy::transmute!(bytes);
            let outcome = judge(torn, &EXPECTED);
            if bit == 7 * 8 {
                assert!(
                    outcome.is_ok(),
                    "the ring, not the record, judges the phase"
                );
            } else {
                assert_eq!(
                    outcome.unwrap_err().0,
                    FaultCode::RecordCorrupt,
                    "bit {bit}"
                );
            }
        }
    }
}
