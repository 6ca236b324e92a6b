//! Plain text, CSV, JSON, XML and source: the text is the document. This file is about encodings.
//!
//! Invariant: what is no text (binary garbage under a text name) is refused, never shown as a salad of letters.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::sink::TextSink;
use super::{About, ExtractFailure};

/// The detector sees this much at most.
const DETECT_BYTES: usize = 1 << 20;

pub(super) fn extract(bytes: &[u8], sink: &mut TextSink) -> Result<About, ExtractFailure> {
    sink.verbatim(&decode(bytes)?);
    Ok(About::default())
}

/// The bytes as text, or why they are none.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, ExtractFailure> {
    let Some(encoding) = encoding_of(bytes) else {
        return Err(ExtractFailure::broken("it holds binary data, not text"));
    };
    Ok(encoding.decode(bytes).0)
}

/// The encoding of a text, `None` when the bytes are no text in any encoding that is met in practice.
///
/// Works on a whole text as on its first bytes: a character cut off at the end is no mistake.
pub(super) fn encoding_of(bytes: &[u8]) -> Option<&'static Encoding> {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return Some(encoding);
    }
    if let Some(encoding) = unmarked_utf16(bytes) {
        return Some(encoding);
    }
    let sample = &bytes[..bytes.len().min(DETECT_BYTES)];
    // Escape is in terminal logs and in ISO-2022-JP; everything else below the blank is no text.
    let odd = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0c | 0x08 | 0x1b)) || *b == 0x7f;
    let oddities = sample.iter().filter(|b| odd(b)).count();
    if sample.contains(&0) || oddities * 200 > sample.len() {
        return None;
    }
    if is_mostly_utf8(sample) {
        return Some(UTF_8);
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(sample, true);
    Some(detector.guess(None, Utf8Detection::Deny))
}

/// UTF-16 without a mark: in most texts of the world one byte of each pair is zero quite often, and always the
/// same one.
fn unmarked_utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    let zeros = |offset: usize| sample.iter().skip(offset).step_by(2).filter(|b| **b == 0).count();
    let (first, second, pairs) = (zeros(0), zeros(1), sample.len() / 2);
    let encoding = match (first, second) {
        (0, n) if n * 2 > pairs => UTF_16LE,
        (n, 0) if n * 2 > pairs => UTF_16BE,
        _ => return None,
    };
    let (text, errors) = encoding.decode_without_bom_handling(sample);
    let odd = text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}'));
    (!errors && !odd).then_some(encoding)
}

/// One damaged byte in a UTF-8 text must not turn all its umlauts into two letters each.
fn is_mostly_utf8(sample: &[u8]) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    let last = sample.utf8_chunks().count();
    for (i, chunk) in sample.utf8_chunks().enumerate() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        let cut_off = i + 1 == last && chunk.invalid().len() < 4;
        let forgiven = chunk.invalid().is_empty() || (cut_off && starts_sequence(chunk.invalid()));
        bad += usize::from(!forgiven);
    }
    bad == 0 || good > 10 * bad
}

fn starts_sequence(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).err().is_some_and(|e| e.error_len().is_none())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_found() {
        let text = "Die Größe der Straße überrascht; «café» naïve. Die Äpfel schmecken süß.\n";
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&[0xff, 0xfe][..], &utf16].concat();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let latin = encoding_rs::WINDOWS_1252.encode(text).0.into_owned();
        for bytes in [text.as_bytes(), &marked, &utf16, &big, &latin] {
            assert_eq!(decode(bytes).unwrap(), text);
        }
        let russian = "Съешь же ещё этих мягких французских булок, да выпей чаю.";
        for encoding in [encoding_rs::WINDOWS_1251, encoding_rs::KOI8_R] {
            assert_eq!(decode(&encoding.encode(russian).0).unwrap(), russian);
        }
    }

    #[test]
    fn one_damaged_byte_costs_one_character() {
        let mut bytes = "Grüße aus München, schöne Größe, überall Äpfel, süße Öle, für Übung".as_bytes().to_vec();
        bytes.insert(0, 0xff);
        assert!(decode(&bytes).unwrap().contains("München"));
    }

    #[test]
    fn a_character_cut_off_at_the_end_is_still_utf8() {
        let bytes = "naïve café".as_bytes();
        assert_eq!(encoding_of(&bytes[..bytes.len() - 1]), Some(UTF_8));
    }

    #[test]
    fn binary_garbage_is_refused() {
        for bytes in [&b"\x7fELF\x02\x01\x01\0\0\0"[..], b"\x01\x02\x03\x04\x05", b"text\0text"] {
            assert!(matches!(decode(bytes), Err(ExtractFailure::Broken { .. })), "{bytes:?}");
        }
    }
}
