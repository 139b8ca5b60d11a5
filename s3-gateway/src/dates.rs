//! The four spellings of a moment that S3 uses, and their readers. Pure; milliseconds since 1970.
//!
//! ISO 8601 in documents (`2026-01-31T12:00:00.000Z`), HTTP dates in headers, `20260131T120000Z`
//! and `20260131` in signatures. Civil dates by Hinnant's days algorithm.

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// A moment cut into what people read.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    milli: u64,
    weekday: usize,
}

/// `2026-01-31T12:00:00.000Z`.
pub fn iso8601(unix_ms: u64) -> String {
    let mut out = String::with_capacity(24);
    push_iso8601(&mut out, unix_ms);
    out
}

/// Appends what [`iso8601`] gives; listings write thousands of them.
pub fn push_iso8601(out: &mut String, unix_ms: u64) {
    let c = civil(unix_ms);
    push_padded(out, c.year, 4);
    for (separator, value, width) in [
        ('-', c.month, 2),
        ('-', c.day, 2),
        ('T', c.hour, 2),
        (':', c.minute, 2),
        (':', c.second, 2),
        ('.', c.milli, 3),
    ] {
        out.push(separator);
        push_padded(out, value, width);
    }
    out.push('Z');
}

/// `Sat, 31 Jan 2026 12:00:00 GMT`; milliseconds are cut off.
pub fn http_date(unix_ms: u64) -> String {
    let c = civil(unix_ms);
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[c.weekday],
        c.day,
        MONTHS[(c.month - 1) as usize],
        c.year,
        c.hour,
        c.minute,
        c.second
    )
}

/// `20260131T120000Z`.
pub fn amz_date(unix_ms: u64) -> String {
    let c = civil(unix_ms);
    format!("{:04}{:02}{:02}T{:02}{:02}{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

/// Reads `20260131T120000Z`.
pub fn parse_amz_date(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| digits(&bytes[from..to]);
    moment(number(0, 4)?, number(4, 6)?, number(6, 8)?, number(9, 11)?, number(11, 13)?, number(13, 15)?)
}

/// Reads an HTTP date: RFC 1123 (also with a numeric zero zone), RFC 850 or asctime.
pub fn parse_http_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        [_, day, month, year, clock, "GMT" | "UTC" | "+0000" | "0000"] if month.len() == 3 => {
            let mut full = digits(year.as_bytes())?;
            if year.len() == 2 {
                full += if full < 70 { 2000 } else { 1900 };
            }
            at(full, month, day, clock)
        }
        [_, month, day, clock, year] => at(digits(year.as_bytes())?, month, day, clock),
        _ => None,
    }
}

/// Reads `2026-01-31T12:00:00Z` or with milliseconds.
pub fn parse_iso8601(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[bytes.len() - 1] != b'Z' || bytes[4] != b'-' || bytes[7] != b'-' || bytes[10] != b'T' {
        return None;
    }
    let number = |from: usize, to: usize| digits(&bytes[from..to]);
    moment(number(0, 4)?, number(5, 7)?, number(8, 10)?, number(11, 13)?, number(14, 16)?, number(17, 19)?)
}

fn at(year: u64, month: &str, day: &str, clock: &str) -> Option<u64> {
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as u64 + 1;
    let mut parts = clock.split(':').map(|part| digits(part.as_bytes()));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    moment(year, month, digits(day.as_bytes())?, hour, minute, second)
}

fn digits(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

fn moment(year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64) -> Option<u64> {
    let fits = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let year_of_era = y - era * 400;
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000)
}

fn civil(unix_ms: u64) -> Civil {
    let seconds = unix_ms / 1_000;
    let days = seconds / 86_400;
    let rest = seconds % 86_400;
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Civil {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted + 2) / 5 + 1,
        hour: rest / 3_600,
        minute: rest / 60 % 60,
        second: rest % 60,
        milli: unix_ms % 1_000,
        weekday: (days % 7) as usize,
    }
}

fn push_padded(out: &mut String, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push((b'0' + (value / 10u64.pow(place) % 10) as u8) as char);
    }
}

#[cfg(test)]
mod tests {
    use super::{amz_date, http_date, iso8601, parse_amz_date, parse_http_date, parse_iso8601};

    #[test]
    fn spellings_of_one_moment() {
        let ms = 1_369_353_600_000; // the day of AWS's published examples
        assert_eq!(amz_date(ms), "20130524T000000Z");
        assert_eq!(http_date(ms), "Fri, 24 May 2013 00:00:00 GMT");
        assert_eq!(iso8601(ms + 7), "2013-05-24T00:00:00.007Z");
        assert_eq!(iso8601(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }

    #[test]
    fn readers_undo_writers() {
        for ms in (0..4_000_000_000_000u64).step_by(86_399_000_777).map(|ms| ms / 1_000 * 1_000) {
            assert_eq!(parse_amz_date(&amz_date(ms)), Some(ms));
            assert_eq!(parse_http_date(&http_date(ms)), Some(ms));
            assert_eq!(parse_iso8601(&iso8601(ms)), Some(ms));
        }
        assert_eq!(parse_http_date("Friday, 24-May-13 00:00:00 GMT"), Some(1_369_353_600_000));
        assert_eq!(parse_http_date("Fri May 24 00:00:00 2013"), Some(1_369_353_600_000));
        for bad in ["", "Bad Date", "20130524", "99999999999999999999", "20131324T000000Z", "2013052éT00000Z"] {
            assert_eq!(parse_amz_date(bad), None, "{bad}");
            assert_eq!(parse_http_date(bad), None, "{bad}");
            assert_eq!(parse_iso8601(bad), None, "{bad}");
        }
    }
}
