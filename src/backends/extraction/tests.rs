//! The real child path: this test program starts itself as the child. Also all parsers against arbitrary bytes and
//! against real documents.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::child::parse_document;
use super::fixtures::{pdf_of, zip_of};
use super::*;

/// Not a test: what the child runs. The arguments of the child are filters that match no test.
#[test]
#[ignore = "the child of the tests beside it"]
fn child_entry() {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--type").peekable();
    if arguments.peek().is_some() {
        let code = child_main(arguments);
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
}

fn program() -> Program {
    let path = std::env::current_exe().unwrap();
    Program::new(path, ["extraction::tests::child_entry", "--exact", "--ignored", "--nocapture", "--"])
}

/// Called by the child before it parses: parsers that behave badly in each way.
pub(super) fn misbehave(media_type: &str) {
    match media_type {
        "test/hog" => {
            let mut all = Vec::new();
            loop {
                all.push(std::hint::black_box(vec![1_u8; 16 << 20]));
            }
        }
        "test/spin" => loop {
            std::hint::spin_loop();
        },
        "test/panic" => panic!("as a parser would"),
        "test/abort" => std::process::abort(),
        "test/deep" => {
            std::hint::black_box(deeper(0));
        }
        "test/open" => {
            let opened = std::fs::File::open("/etc/passwd").is_ok();
            let connected = std::net::UdpSocket::bind("127.0.0.1:0").is_ok();
            // Root may start processes whatever the limit says; they inherit all the others.
            let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
            let started = !root && std::process::Command::new("/bin/true").status().is_ok();
            let told = std::env::vars_os().next().is_some();
            assert!(!(opened || connected || started || told), "{opened} {connected} {started} {told}");
            println!("all is closed");
            std::process::exit(7);
        }
        "test/chatter" => println!("a library says something"),
        _ => {}
    }
}

#[allow(unconditional_recursion)]
fn deeper(n: u64) -> u64 {
    let frame = std::hint::black_box([n; 512]);
    deeper(frame[7] + 1) + frame[11]
}

fn file_with(bytes: &[u8]) -> Input {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    Input::File(file)
}

async fn run(bytes: &[u8], media_type: &str, limits: &Limits) -> Result<Extracted, ExtractFailure> {
    extract(&program(), file_with(bytes), media_type, limits).await
}

#[tokio::test]
async fn a_document_comes_back_from_the_child() {
    let words = "BT /F1 12 Tf 50 700 Td (Gr\u{f6}\u{df}e und) Tj 0 -14 Td (Ma\u{df}e) Tj ET";
    let pdf = pdf_of("A title", &[words, "BT /F1 12 Tf 50 700 Td (second) Tj ET"]);
    let found = run(&pdf, "application/pdf", &Limits::default()).await.unwrap();
    assert_eq!(found.text, "Größe und\nMaße\n\nsecond");
    assert_eq!(found.title.as_deref(), Some("A title"));
    assert_eq!(found.page_count, Some(2));

    let stream = Input::Stream(Box::pin(std::io::Cursor::new(b"# Hello\n\nworld".to_vec())));
    let found = extract(&program(), stream, "text/markdown; charset=utf-8", &Limits::default()).await.unwrap();
    assert_eq!((found.text.as_str(), found.title.as_deref()), ("Hello\n\nworld", Some("Hello")));
}

#[tokio::test]
async fn failures_of_documents_come_back_as_reasons() {
    let limits = Limits { input_bytes: 1000, ..Limits::default() };
    assert_eq!(run(b"", "text/plain", &limits).await, Err(ExtractFailure::Empty));
    assert_eq!(run(&[b'x'; 1001], "text/plain", &limits).await, Err(ExtractFailure::TooLarge { limit_bytes: 1000 }));
    assert!(matches!(run(b"%PDF-1.4\nrubbish", "application/pdf", &limits).await, Err(ExtractFailure::Broken { .. })));
    let failure = run(b"x", "image/png", &limits).await.unwrap_err();
    assert!(failure.reason().contains("PNG image") && !failure.is_transient(), "{failure:?}");
}

#[tokio::test]
async fn text_is_cut_at_the_limit() {
    let limits = Limits { output_bytes: 1000, ..Limits::default() };
    let found = run("\"ä\n".repeat(5000).as_bytes(), "text/plain", &limits).await.unwrap();
    assert!(found.truncated && found.text.len() <= 1000 && found.text.len() > 990);
}

#[tokio::test]
async fn a_parser_that_misbehaves_ends_alone_and_truly() {
    let limits = Limits { memory_bytes: 512 << 20, ..Limits::default() };
    // One that does not come to its end has a second; the others have all the time that they need.
    let hurried = Limits { cpu: Duration::from_secs(1), ..limits.clone() };
    let of = async |kind: &str| {
        let limits = if kind == "test/spin" { &hurried } else { &limits };
        run(b"x", kind, limits).await.unwrap_err()
    };
    assert_eq!(of("test/hog").await, ExtractFailure::OutOfMemory { limit_bytes: 512 << 20 });
    assert_eq!(of("test/spin").await, ExtractFailure::TimedOut { seconds: 1 });
    assert!(matches!(of("test/panic").await, ExtractFailure::Broken { .. }));
    assert_eq!(of("test/abort").await, ExtractFailure::Crashed);
    assert!(matches!(of("test/deep").await, ExtractFailure::Broken { detail } if detail.contains("deep")));
    // It reached its exit without an answer: nothing could be opened, started or learned.
    assert_eq!(of("test/open").await, ExtractFailure::Crashed);
}

#[tokio::test]
async fn what_a_library_prints_is_not_the_answer() {
    let failure = run(b"x", "test/chatter", &Limits::default()).await.unwrap_err();
    assert_eq!(failure, ExtractFailure::Unsupported { media_type: "test/chatter".to_owned() });
}

#[tokio::test]
async fn the_wall_time_ends_a_child_that_waits() {
    let (kept_open, stream) = tokio::io::duplex(64);
    let limits = Limits { wall: Duration::from_millis(300), ..Limits::default() };
    let outcome = extract(&program(), Input::Stream(Box::pin(stream)), "text/plain", &limits).await;
    assert_eq!(outcome, Err(ExtractFailure::TimedOut { seconds: 1 }));
    drop(kept_open);
}

#[tokio::test]
async fn what_is_not_the_files_fault_is_transient() {
    let absent = Program::new(PathBuf::from("/nonexistent/oriel"), ["extract"]);
    let failure = extract(&absent, file_with(b"x"), "text/plain", &Limits::default()).await.unwrap_err();
    assert!(failure.is_transient() && !failure.reason().contains("nonexistent"), "{failure:?}");

    let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
        Ok(bytes::Bytes::from_static(b"half a document")),
        Err(std::io::Error::other("the store went away")),
    ]));
    let outcome = extract(&program(), Input::Stream(Box::pin(broken)), "text/plain", &Limits::default()).await;
    assert!(outcome.unwrap_err().is_transient());
}

const TYPES: [&str; 6] = ["text/plain", "text/markdown", "text/html", "application/pdf", sniff::DOCX, sniff::ODT];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), name in ".{0,12}") {
        let found = sniff(&bytes, &name);
        let _ = contradicts(&name, &found.media_type);
        for media_type in TYPES {
            let _ = parse_document(bytes.clone(), media_type, 1000);
        }
    }

    #[test]
    fn damaged_documents_never_panic(at in 0_usize..3000, byte in any::<u8>(), cut in 0_usize..3000) {
        let documents = [
            pdf_of("t", &["BT /F1 12 Tf 50 700 Td [(one) -300 (two)] TJ ET"]),
            zip_of(&[("word/document.xml", "<w:p><w:r><w:t>one</w:t></w:r></w:p>")]),
            zip_of(&[("content.xml", "<o:body><t:p>one</t:p></o:body>")]),
            b"<table><tr><td>one<p>two</table>&amp;<pre>x".to_vec(),
            b"# one\n\n| a |\n|---|\n| <b>x |\n\n```\nx".to_vec(),
        ];
        for mut document in documents {
            let at = at % document.len();
            document[at] = byte;
            document.truncate(cut.max(1));
            let _ = sniff(&document, "");
            for media_type in TYPES {
                let _ = parse_document(document.clone(), media_type, 1000);
            }
        }
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// File, pages, and words that a reader sees in it.
const KNOWN: &[(&str, u32, &[&str])] = &[
    ("minimal-document.pdf", 1, &["Lorem ipsum dolor sit amet"]),
    ("002-trivial-libre-office-writer.pdf", 1, &["Lorem ipsum"]),
    ("pdflatex-4-pages.pdf", 4, &["“Huardest gefburn”? Kjift – not at all!"]),
    ("pdflatex-outline.pdf", 4, &["1 Foo", "“Huardest gefburn”? Kjift – not at all!"]),
    ("GeoTopo-komprimiert.pdf", 117, &["Geometrie und Topologie", "Übungsaufgaben", "Auflage, 31. Dezember 2016"]),
    ("google-doc-document.pdf", 1, &["Beautiful is better than ugly."]),
    ("libreoffice-form.pdf", 1, &["Example for a Form", "First Name", "Nationality", "Alice", "Bob"]),
    ("imagemagick-CCITTFaxDecode.pdf", 1, &[]),
    ("imagemagick-lzw.pdf", 1, &[]),
];

#[tokio::test]
async fn real_documents_end_with_text_or_a_true_reason() {
    let Some(data) = std::env::var_os("ORIEL_TEST_DATA") else {
        eprintln!("not run: ORIEL_TEST_DATA is not set");
        return;
    };
    let mut files = Vec::new();
    files_below(&Path::new(&data).join("documents"), &mut files);
    assert!(files.len() > 20, "{files:?}");
    let mut known = 0;
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut file = std::fs::File::open(&path).unwrap();
        let mut head = Vec::new();
        (&mut file).take(SNIFF_BYTES as u64).read_to_end(&mut head).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let sniffed = sniff(&head, &name);
        assert!(sniffed.confident, "{name}: {sniffed:?}");
        assert_eq!(contradicts(&name, &sniffed.media_type), None, "{name}");
        match extractable(&sniffed.media_type) {
            Extractable::NoText => assert!(sniffed.media_type.starts_with("image/"), "{name}"),
            Extractable::Unsupported { reason } => panic!("{name}: {reason}"),
            Extractable::Yes(_) => {
                let outcome = extract(&program(), Input::File(file), &sniffed.media_type, &Limits::default()).await;
                if name == "libreoffice-writer-password.pdf" {
                    assert_eq!(outcome, Err(ExtractFailure::Encrypted));
                    continue;
                }
                let found = outcome.unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
                assert!(!found.truncated && !found.text.contains('\0'), "{name}");
                if let Some((_, pages, words)) = KNOWN.iter().find(|(known, ..)| *known == name) {
                    known += 1;
                    assert_eq!(found.page_count, Some(*pages), "{name}");
                    assert!(!words.is_empty() || found.text.is_empty(), "{name}: {}", found.text);
                    for word in *words {
                        assert!(found.text.contains(word), "{name}: {word} is not in {}", found.text);
                    }
                }
            }
        }
    }
    assert_eq!(known, KNOWN.len());
}
