//! The language of a text, named only when the evidence is good: a wrong one spoils search more than none.

use whatlang::Lang;

/// Enough of a text to judge it; more costs time and changes nothing.
const SAMPLE_CHARS: usize = 4_000;
/// Fewer letters are no evidence.
const MIN_LETTERS: usize = 40;

/// ISO 639-1, when detected reliably.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    // Digits, codes and punctuation say nothing; take words.
    let sample: String =
        text.chars().map(|c| if c.is_alphabetic() || c == '\'' { c } else { ' ' }).take(SAMPLE_CHARS).collect();
    if sample.chars().filter(|c| c.is_alphabetic()).count() < MIN_LETTERS {
        return None;
    }
    let info = whatlang::detect(&sample)?;
    if info.is_reliable() { iso_639_1(info.lang()) } else { None }
}

fn iso_639_1(lang: Lang) -> Option<&'static str> {
    Some(match lang.code() {
        "afr" => "af",
        "aka" => "ak",
        "amh" => "am",
        "ara" => "ar",
        "aze" => "az",
        "bel" => "be",
        "ben" => "bn",
        "bul" => "bg",
        "cat" => "ca",
        "ces" => "cs",
        "cmn" => "zh",
        "cym" => "cy",
        "dan" => "da",
        "deu" => "de",
        "ell" => "el",
        "eng" => "en",
        "epo" => "eo",
        "est" => "et",
        "fin" => "fi",
        "fra" => "fr",
        "guj" => "gu",
        "heb" => "he",
        "hin" => "hi",
        "hrv" => "hr",
        "hun" => "hu",
        "hye" => "hy",
        "ind" => "id",
        "ita" => "it",
        "jav" => "jv",
        "jpn" => "ja",
        "kan" => "kn",
        "kat" => "ka",
        "khm" => "km",
        "kor" => "ko",
        "lat" => "la",
        "lav" => "lv",
        "lit" => "lt",
        "mal" => "ml",
        "mar" => "mr",
        "mkd" => "mk",
        "mya" => "my",
        "nep" => "ne",
        "nld" => "nl",
        "nob" => "nb",
        "ori" => "or",
        "pan" => "pa",
        "pes" => "fa",
        "pol" => "pl",
        "por" => "pt",
        "ron" => "ro",
        "rus" => "ru",
        "sin" => "si",
        "slk" => "sk",
        "slv" => "sl",
        "sna" => "sn",
        "spa" => "es",
        "srp" => "sr",
        "swe" => "sv",
        "tam" => "ta",
        "tel" => "te",
        "tgl" => "tl",
        "tha" => "th",
        "tuk" => "tk",
        "tur" => "tr",
        "ukr" => "uk",
        "urd" => "ur",
        "uzb" => "uz",
        "vie" => "vi",
        "yid" => "yi",
        "zul" => "zu",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_named_when_sure() {
        let german = "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung aller \
                      staatlichen Gewalt. Das Deutsche Volk bekennt sich darum zu unverletzlichen Menschenrechten.";
        let english = "All human beings are born free and equal in dignity and rights. They are endowed with reason \
                       and conscience and should act towards one another in a spirit of brotherhood.";
        assert_eq!(detect(german), Some("de"));
        assert_eq!(detect(english), Some("en"));
        assert_eq!(
            detect(
                "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられている"
            ),
            Some("ja")
        );
        assert_eq!(detect("invoice 4711 x"), None);
        assert_eq!(detect("1234 5678 9012"), None);
    }
}
