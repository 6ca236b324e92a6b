//! What a file is, from its first bytes; and whether its name claims something else.
//!
//! Invariants: a binary format is decided by content alone; the name only chooses among kinds of text, where the
//! content cannot tell (Markdown, CSV, source). Nothing here unpacks more than `SNIFF_BYTES`.

use std::io::Read;

use super::text::encoding_of;

/// As many first bytes as `sniff` makes use of.
pub const SNIFF_BYTES: usize = 64 << 10;

pub(super) const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
pub(super) const DOTX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.template";
pub(super) const DOCM: &str = "application/vnd.ms-word.document.macroenabled.12";
pub(super) const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
pub(super) const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
pub(super) const ODT: &str = "application/vnd.oasis.opendocument.text";
pub(super) const OTT: &str = "application/vnd.oasis.opendocument.text-template";
/// An Office document behind a password is another container than an open one.
pub(super) const OOXML_ENCRYPTED: &str = "application/x-ooxml-protected";
const OLE: &str = "application/x-ole-storage";
const UNKNOWN: &str = "application/octet-stream";

/// A media type and how well it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sniffed {
    /// Without parameters, in lower case.
    pub media_type: String,
    /// The content says so; `false` where the name had to help or nothing was recognised.
    pub confident: bool,
}

impl Sniffed {
    fn sure(media_type: impl Into<String>) -> Self {
        Self { media_type: media_type.into(), confident: true }
    }

    fn guess(media_type: impl Into<String>) -> Self {
        Self { media_type: media_type.into(), confident: false }
    }
}

/// What the content says it is. `head` is the whole file or its first bytes, [`SNIFF_BYTES`] if there are so many.
pub fn sniff(head: &[u8], file_name: &str) -> Sniffed {
    let head = &head[..head.len().min(SNIFF_BYTES)];
    if head.is_empty() {
        return Sniffed::guess(UNKNOWN);
    }
    if head.starts_with(b"PK\x03\x04") {
        return Sniffed::sure(inside_zip(head).unwrap_or_else(|| "application/zip".to_owned()));
    }
    if head.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return Sniffed::sure(inside_ole(head));
    }
    for (magic, media_type) in
        [(&b"%PDF-"[..], "application/pdf"), (b"{\\rtf", "application/rtf"), (b"%!PS", "application/postscript")]
    {
        if head.starts_with(magic) {
            return Sniffed::sure(media_type);
        }
    }
    // Before the magic numbers: some are two letters that a text may begin with.
    if let Some(encoding) = encoding_of(head) {
        let (text, _) = encoding.decode_without_bom_handling(head);
        return text_kind(text.trim_start_matches('\u{feff}'), head.len() < SNIFF_BYTES, file_name);
    }
    if let Some(kind) = infer::get(head).filter(|kind| kind.matcher_type() != infer::MatcherType::Text) {
        return Sniffed::sure(kind.mime_type());
    }
    // Readers forgive some bytes before the header of a PDF.
    if head[..head.len().min(1024)].windows(5).any(|w| w == b"%PDF-") {
        return Sniffed::sure("application/pdf");
    }
    Sniffed::guess(UNKNOWN)
}

/// Documents that are ZIP archives say in their first entries what they are.
fn inside_zip(head: &[u8]) -> Option<String> {
    let mut rest = head;
    let mut names = Vec::new();
    // Entries one after another, as far as their lengths are known in advance.
    while let Ok(Some(entry)) = zip::read::read_zipfile_from_stream(&mut rest) {
        let name = entry.name().map(|name| name.into_owned()).unwrap_or_default();
        let mut content = Vec::new();
        if matches!(name.as_str(), "mimetype" | "[Content_Types].xml") {
            let _ = entry.take(SNIFF_BYTES as u64).read_to_end(&mut content);
        }
        let content = String::from_utf8_lossy(&content);
        if name == "mimetype" && content.is_ascii() && content.contains('/') && content.len() < 128 {
            return Some(content.trim().to_ascii_lowercase());
        }
        if let Some(media_type) = main_content_type(&content) {
            return Some(media_type.to_owned());
        }
        names.push(name);
        if names.len() > 64 {
            break;
        }
    }
    // Else the names in their local headers, wherever they stand in the head.
    let named =
        |prefix: &[u8]| head.windows(30 + prefix.len()).any(|w| w.starts_with(b"PK\x03\x04") && &w[30..] == prefix);
    [(&b"word/"[..], DOCX), (b"xl/", XLSX), (b"ppt/", PPTX), (b"META-INF/MANIFEST.MF", "application/java-archive")]
        .into_iter()
        .find_map(|(prefix, media_type)| named(prefix).then(|| media_type.to_owned()))
}

fn main_content_type(types: &str) -> Option<&'static str> {
    [
        ("wordprocessingml.document.main+xml", DOCX),
        ("wordprocessingml.template.main+xml", DOTX),
        ("ms-word.document.macroEnabled.main+xml", DOCM),
        ("spreadsheetml.sheet.main+xml", XLSX),
        ("presentationml.presentation.main+xml", PPTX),
    ]
    .into_iter()
    .find_map(|(part, media_type)| types.contains(part).then_some(media_type))
}

/// The old container of Office, also of encrypted new documents. Its streams are named in UTF-16.
fn inside_ole(head: &[u8]) -> String {
    let named = |name: &str| {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        head.windows(wide.len()).any(|w| w == wide)
    };
    let found = [
        ("EncryptedPackage", OOXML_ENCRYPTED),
        ("WordDocument", "application/msword"),
        ("Workbook", "application/vnd.ms-excel"),
        ("PowerPoint Document", "application/vnd.ms-powerpoint"),
    ];
    found.into_iter().find(|(name, _)| named(name)).map_or(OLE, |(_, media_type)| media_type).to_owned()
}

/// Which text it is. `whole`: nothing follows.
fn text_kind(text: &str, whole: bool, file_name: &str) -> Sniffed {
    let extension = extension(file_name);
    let start = text.trim_start();
    let lower: String = start.chars().take(512).collect::<String>().to_ascii_lowercase();
    let is_markdown_name = matches!(extension.as_str(), "md" | "markdown" | "mdown" | "mkd");
    if lower.starts_with("<?xml") {
        return Sniffed::sure(if lower.contains("<html") || lower.contains("<!doctype html") {
            "application/xhtml+xml"
        } else if lower.contains("<svg") {
            "image/svg+xml"
        } else {
            "application/xml"
        });
    }
    if lower.starts_with("<svg") || lower.starts_with("<!doctype svg") {
        return Sniffed::sure("image/svg+xml");
    }
    if ["<!doctype html", "<html"].iter().any(|tag| lower.starts_with(tag)) {
        return Sniffed::sure("text/html");
    }
    // Markdown may begin with a piece of HTML, and often does.
    let html_parts =
        ["<head", "<title", "<body", "<h1", "<p>", "<p ", "<div", "<table", "<a ", "<meta", "<script", "<!--"];
    if !is_markdown_name && html_parts.iter().any(|tag| lower.starts_with(tag)) && has_closing_tag(text) {
        return Sniffed::sure("text/html");
    }
    if !is_markdown_name && is_json(start, whole) {
        return Sniffed::sure("application/json");
    }
    match extension.as_str() {
        _ if is_markdown_name => Sniffed::guess("text/markdown"),
        "csv" => Sniffed::guess("text/csv"),
        "tsv" => Sniffed::guess("text/tab-separated-values"),
        "txt" | "log" | "" if extension.is_empty() && looks_like_markdown(text) => Sniffed::guess("text/markdown"),
        "htm" | "html" if text.contains('<') => Sniffed::guess("text/html"),
        _ => {
            let named = mime_guess::from_ext(&extension).first_raw().filter(|named| is_text_like(named));
            // Names of formats that the content would have shown are not believed.
            let proven = |named: &&str| {
                !matches!(*named, "text/html" | "application/json" | "image/svg+xml") && !named.ends_with("xml")
            };
            match named.filter(proven) {
                Some(named) if named != "text/plain" => Sniffed::guess(named),
                _ => Sniffed::sure("text/plain"),
            }
        }
    }
}

fn has_closing_tag(text: &str) -> bool {
    text.contains("</") || text.contains("/>")
}

/// One whole JSON object or array, or the beginning of one that goes on beyond the head.
fn is_json(text: &str, whole: bool) -> bool {
    if !text.starts_with(['{', '[']) {
        return false;
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => true,
        Err(error) => error.is_eof() && !whole,
    }
}

fn looks_like_markdown(text: &str) -> bool {
    let lines = || text.lines().take(200);
    let heading = lines().any(|l| l.trim_start_matches('#').starts_with(' ') && l.starts_with('#'));
    let other = lines().any(|l| l.starts_with("```") || l.starts_with("- ") || l.starts_with("* ") || l.contains("]("));
    heading && other
}

/// Whether a media type is read as text: all `text/*` and what is text under another name.
pub(super) fn is_text_like(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || media_type.ends_with("+xml")
        || media_type.ends_with("+json")
        || matches!(
            media_type,
            "application/json"
                | "application/xml"
                | "application/javascript"
                | "application/x-javascript"
                | "application/ecmascript"
                | "application/x-ndjson"
                | "application/jsonlines"
                | "application/yaml"
                | "application/x-yaml"
                | "application/toml"
                | "application/sql"
                | "application/x-sql"
                | "application/x-sh"
                | "application/x-csh"
                | "application/x-tex"
                | "application/x-latex"
                | "application/x-httpd-php"
                | "application/x-perl"
                | "application/typescript"
                | "application/graphql"
                | "application/x-subrip"
                | "message/rfc822"
        )
}

/// Kinds within which names are used loosely.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Text,
    Pdf,
    Image,
    Svg,
    Media,
    Word,
    Sheet,
    Slides,
    OpenText,
    OpenSheet,
    OpenSlides,
    OldOffice,
    Archive,
    Program,
    Unknown,
}

/// Why the name and the content do not go together, for a person; `None` when they do, or when the name claims
/// nothing that can be checked.
pub fn contradicts(file_name: &str, media_type: &str) -> Option<String> {
    use Family::*;
    let extension = extension(file_name);
    let (claimed, claim) = claim_of(&extension)?;
    let found = family_of(media_type);
    let agrees = match (claimed, found) {
        _ if claimed == found => true,
        // SVG and HTML are texts, too; a text editor writes any of them.
        (Text, Svg) | (Svg, Text) => true,
        // Word writes RTF, HTML and new documents under the old name; an encrypted document is in the old container.
        (OldOffice, Word | Sheet | Slides) => true,
        (Word | Sheet | Slides, OldOffice) => media_type == OOXML_ENCRYPTED,
        (OldOffice, Text) => extension == "doc" || extension == "xls",
        // Sound and pictures in motion often lack a mark at their beginning; archives have many kinds.
        (Media | Archive | OldOffice, Unknown) => true,
        (Archive, _) => matches!(found, Word | Sheet | Slides | OpenText | OpenSheet | OpenSlides),
        _ => false,
    };
    if agrees {
        return None;
    }
    let found = if media_type == UNKNOWN { "unknown binary data".to_owned() } else { describe(media_type) };
    Some(format!("The name \"{}\" says {claim}, but the content is {found}.", shorten(file_name)))
}

/// What an extension claims, in words; `None` for one that claims nothing that can be checked.
fn claim_of(extension: &str) -> Option<(Family, &'static str)> {
    use Family::*;
    Some(match extension {
        "pdf" => (Pdf, "PDF"),
        "png" | "jpg" | "jpeg" | "gif" | "webp" | "tif" | "tiff" | "bmp" | "heic" | "heif" | "avif" => (Image, "image"),
        "svg" => (Svg, "SVG image"),
        "mp3" | "wav" | "ogg" | "oga" | "flac" | "m4a" | "aac" | "opus" => (Media, "sound"),
        "mp4" | "m4v" | "mov" | "mkv" | "webm" | "avi" | "mpg" | "mpeg" | "wmv" => (Media, "video"),
        "docx" | "dotx" | "docm" => (Word, "Word document"),
        "xlsx" | "xlsm" => (Sheet, "Excel workbook"),
        "pptx" | "pptm" => (Slides, "PowerPoint presentation"),
        "odt" | "ott" => (OpenText, "OpenDocument text"),
        "ods" => (OpenSheet, "OpenDocument spreadsheet"),
        "odp" => (OpenSlides, "OpenDocument presentation"),
        "doc" | "xls" | "ppt" => (OldOffice, "Office document"),
        "zip" | "gz" | "tgz" | "bz2" | "xz" | "7z" | "rar" | "tar" | "zst" => (Archive, "archive"),
        "txt" | "text" | "log" | "md" | "markdown" | "csv" | "tsv" | "json" | "jsonl" | "ndjson" | "xml" | "htm"
        | "html" | "xhtml" | "yaml" | "yml" | "toml" | "ini" | "conf" | "sql" | "css" | "js" | "ts" | "py" | "rs"
        | "java" | "c" | "h" | "cpp" | "go" | "rb" | "php" | "sh" | "tex" | "rtf" | "eml" | "rst" | "adoc" => {
            (Text, "text")
        }
        _ => return None,
    })
}

fn family_of(media_type: &str) -> Family {
    use Family::*;
    match media_type {
        "application/pdf" => Pdf,
        "image/svg+xml" => Svg,
        DOCX | DOTX | DOCM => Word,
        XLSX => Sheet,
        PPTX => Slides,
        ODT | OTT => OpenText,
        "application/vnd.oasis.opendocument.spreadsheet" => OpenSheet,
        "application/vnd.oasis.opendocument.presentation" => OpenSlides,
        OLE | OOXML_ENCRYPTED | "application/msword" | "application/vnd.ms-excel" | "application/vnd.ms-powerpoint" => {
            OldOffice
        }
        "application/rtf" | "application/postscript" => Text,
        "application/x-executable"
        | "application/vnd.microsoft.portable-executable"
        | "application/x-mach-binary"
        | "application/wasm"
        | "application/java" => Program,
        "application/zip"
        | "application/gzip"
        | "application/x-tar"
        | "application/vnd.rar"
        | "application/zstd"
        | "application/x-bzip2"
        | "application/x-xz"
        | "application/x-7z-compressed"
        | "application/java-archive"
        | "application/epub+zip"
        | "application/x-lz4"
        | "application/x-compress" => Archive,
        UNKNOWN => Unknown,
        other if other.starts_with("image/") => Image,
        other if other.starts_with("audio/") || other.starts_with("video/") => Media,
        other if is_text_like(other) => Text,
        _ => Unknown,
    }
}

/// A media type in words.
pub(super) fn describe(media_type: &str) -> String {
    match (family_of(media_type), media_type) {
        (_, "application/pdf") => "a PDF".to_owned(),
        (_, "text/html" | "application/xhtml+xml") => "an HTML page".to_owned(),
        (_, "application/rtf") => "an RTF text".to_owned(),
        (_, "application/zip") => "a ZIP archive".to_owned(),
        (_, OOXML_ENCRYPTED) => "an Office document with a password".to_owned(),
        (Family::Image | Family::Svg, _) => {
            let kind = media_type.trim_start_matches("image/").trim_end_matches("+xml").trim_start_matches("x-");
            let article = if kind.starts_with(['a', 'e', 'i', 'o', 's']) && kind != "jpeg" { "an" } else { "a" };
            format!("{article} {} image", kind.to_ascii_uppercase())
        }
        (Family::Media, other) if other.starts_with("audio/") => "a sound recording".to_owned(),
        (Family::Media, _) => "a video".to_owned(),
        (Family::Word, _) => "a Word document".to_owned(),
        (Family::Sheet, _) => "an Excel workbook".to_owned(),
        (Family::Slides, _) => "a PowerPoint presentation".to_owned(),
        (Family::OpenText, _) => "an OpenDocument text".to_owned(),
        (Family::OpenSheet, _) => "an OpenDocument spreadsheet".to_owned(),
        (Family::OpenSlides, _) => "an OpenDocument presentation".to_owned(),
        (Family::OldOffice, _) => "an Office document of the old format".to_owned(),
        (Family::Program, _) => "a program".to_owned(),
        (Family::Archive, _) => "an archive".to_owned(),
        (Family::Text, _) => "plain text".to_owned(),
        (Family::Pdf | Family::Unknown, UNKNOWN) => "files of an unknown kind".to_owned(),
        (Family::Pdf | Family::Unknown, other) => format!("a file of the type {other}"),
    }
}

fn extension(file_name: &str) -> String {
    let name = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension.trim().to_lowercase(),
        _ => String::new(),
    }
}

fn shorten(file_name: &str) -> String {
    let name: String = file_name.chars().filter(|c| !c.is_control()).collect();
    match name.char_indices().nth(80) {
        Some((at, _)) => format!("{}...", &name[..at]),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extraction::fixtures::{ole_with, zip_of};

    fn kind(bytes: &[u8], name: &str) -> String {
        sniff(bytes, name).media_type
    }

    #[test]
    fn binary_is_named_by_content_alone() {
        assert_eq!(kind(b"%PDF-1.7\n", "a.txt"), "application/pdf");
        assert_eq!(kind(b"\x00\x01junk\n%PDF-1.7\n\x00", "a"), "application/pdf");
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.pdf"), "image/png");
        let program = [&b"\x7fELF\x02\x01\x01"[..], &[0; 64]].concat();
        assert_eq!(kind(&program, "a.pdf"), "application/x-executable");
        assert_eq!(kind(b"\x00\x01\x02\x03\x04", "a.pdf"), "application/octet-stream");
        assert!(!sniff(b"\x00\x01\x02\x03\x04", "a.pdf").confident);
        assert_eq!(kind(b"", "a.pdf"), "application/octet-stream");
    }

    #[test]
    fn text_is_not_taken_for_a_magic_number() {
        for text in ["BM stands for benchmark", "MZ is a label", "PK is a key", "GIF files are old", "Rar! it said"] {
            assert_eq!(kind(text.as_bytes(), "note.txt"), "text/plain", "{text}");
        }
    }

    #[test]
    fn containers_are_named_by_what_is_inside() {
        let types = "<Types><Override ContentType='application/vnd.openxmlformats-officedocument.\
                     wordprocessingml.document.main+xml'/></Types>";
        assert_eq!(kind(&zip_of(&[("[Content_Types].xml", types)]), "a.zip"), DOCX);
        assert_eq!(kind(&zip_of(&[("x", "1"), ("word/document.xml", "<x/>")]), "a"), DOCX);
        assert_eq!(kind(&zip_of(&[("mimetype", ODT)]), "a"), ODT);
        assert_eq!(kind(&zip_of(&[("mimetype", "application/epub+zip")]), "a"), "application/epub+zip");
        assert_eq!(kind(&zip_of(&[("readme.txt", "word/")]), "a.docx"), "application/zip");
        assert_eq!(kind(&ole_with("EncryptedPackage"), "a.docx"), OOXML_ENCRYPTED);
        assert_eq!(kind(&ole_with("WordDocument"), "a.doc"), "application/msword");
    }

    #[test]
    fn kinds_of_text_follow_content_then_name() {
        assert_eq!(kind(b"\n <!DOCTYPE html><p>x", "a.txt"), "text/html");
        assert_eq!(kind(b"<div>x</div>", "a"), "text/html");
        assert_eq!(kind(b"<p align=center>x</p>\n\n# Hi", "README.md"), "text/markdown");
        assert_eq!(kind(b"{\"a\": [1, 2]}", "a"), "application/json");
        assert_eq!(kind(b"[link](http://x)", "a"), "text/plain");
        assert_eq!(kind(b"{not json", "a.json"), "text/plain");
        assert_eq!(kind(b"<?xml version='1.0'?><a/>", "a.txt"), "application/xml");
        assert_eq!(kind(b"<svg xmlns='x'/>", "a.txt"), "image/svg+xml");
        assert_eq!(kind(b"a;b\n1;2\n", "a.csv"), "text/csv");
        assert_eq!(kind(b"fn main() {}", "main.rs"), "text/x-rust");
        assert_eq!(kind(b"# Title\n\n- one\n", "README"), "text/markdown");
        assert_eq!(kind(b"plain words", "a.pdf"), "text/plain");
        assert_eq!(kind(b"\xff\xfeh\0i\0", "a.bin"), "text/plain");
    }

    #[test]
    fn a_name_that_lies_is_noticed_with_a_reason() {
        assert_eq!(
            contradicts("invoice.pdf", "image/png").as_deref(),
            Some("The name \"invoice.pdf\" says PDF, but the content is a PNG image.")
        );
        for (name, media_type) in [
            ("a.pdf", "text/html"),
            ("a.pdf", UNKNOWN),
            ("a.png", "image/svg+xml"),
            ("a.txt", "application/x-executable"),
            ("a.jpg", "application/vnd.microsoft.portable-executable"),
            ("a.docx", "application/zip"),
            ("a.docx", "application/pdf"),
            ("a.csv", XLSX),
            ("a.zip", "application/pdf"),
        ] {
            assert!(contradicts(name, media_type).is_some(), "{name} {media_type}");
        }
    }

    #[test]
    fn loose_names_are_forgiven() {
        for (name, media_type) in [
            ("a.txt", "text/markdown"),
            ("a.txt", "application/json"),
            ("a.htm", "text/plain"),
            ("a.xml", "text/html"),
            ("a.log", "text/plain"),
            ("a.jpg", "image/png"),
            ("a.doc", "application/rtf"),
            ("a.doc", DOCX),
            ("a.docx", OOXML_ENCRYPTED),
            ("a.mp3", UNKNOWN),
            ("a.weird", "application/pdf"),
            ("noextension", "application/pdf"),
            (".hidden", "image/png"),
            ("a.PDF", "application/pdf"),
        ] {
            assert_eq!(contradicts(name, media_type), None, "{name} {media_type}");
        }
    }
}
