//! What fuzzing calls: any bytes as what a worker sends.

use comfyd_memory::Account;

use crate::frame::{Blob, read};
use crate::portable::unpack;

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;

/// Bytes of a frame's blob that are taken.
const MAX_BLOB: u64 = 1 << 20;

/// Frames one after the other, with the values in them.
pub fn frame(data: &[u8]) {
    let account = Account::new(2 * MAX_BLOB);
    let mut stream = data;
    // JSON from the start, with room for values behind it.
    let json = [&(data.len() as u32).to_le_bytes()[..], &64_u32.to_le_bytes(), data, &[7; 64]].concat();
    let mut alone = json.as_slice();
    for stream in [&mut stream, &mut alone] {
        while let Ok(mut frame) = read(stream, MAX_BLOB, &account) {
            let portable = frame.json.get("p").cloned().unwrap_or_default();
            if let Blob::Tensors(tensors) = std::mem::replace(&mut frame.blob, Blob::Bytes(Vec::new())) {
                let declared = frame.json.get("type").and_then(|ty| ty.as_str()).unwrap_or("*");
                let _ = unpack(&portable, tensors, declared);
            }
            crate::link::failure(&mut frame.json);
        }
    }
}

#[cfg(test)]
#[test]
fn what_fuzzing_found_is_answered() {
    kept::replay("frame", frame);
}
