//! Times as the database has them, in microseconds since 1970, and as clients get them.

use std::time::SystemTime;

use jiff::Timestamp;

/// Now.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// As Python writes a time without a zone, which is UTC's.
pub fn iso(us: i64) -> String {
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime(if us % 1_000_000 == 0 { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%dT%H:%M:%S.%6f" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        assert_eq!(iso(1_716_209_600_123_456), "2024-05-20T12:53:20.123456");
        assert_eq!(iso(1_716_209_600_000_100), "2024-05-20T12:53:20.000100");
        assert_eq!(iso(1_716_209_600_000_000), "2024-05-20T12:53:20");
    }
}
