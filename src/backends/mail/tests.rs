//! Letters into a folder, and to a real server that this test starts.

use super::*;

#[path = "sink.rs"]
mod sink;

use sink::Sink;

const FROM: &str = "Oriel <oriel@example.org>";

fn letter() -> Letter {
    Letter {
        id: Uuid::from_u128(7),
        to: "ada@example.org".to_owned(),
        subject: "Grüße, Ada".to_owned(),
        text: "Hello, this is a line that is longer than a terminal has columns: eighty of them, as it was for long.\n\n.A line that begins with a dot\nhttps://oriel.example/#x=1\n".to_owned(),
    }
}

#[tokio::test]
async fn a_letter_is_a_file_however_often_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = folder.path().join("outbox");
    let mail = Mail::open(None, &outbox, FROM).unwrap();
    mail.send(&letter()).await.unwrap();
    mail.send(&letter()).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(&outbox).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(&files[0]).unwrap();
    assert!(text.contains("To: ada@example.org") && text.contains("as it was for long."), "{text}");
    #[cfg(unix)]
    for path in [&outbox, &files[0]] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}

#[tokio::test]
async fn a_server_is_handed_the_letter() {
    let sink = Sink::start("localhost").await;
    let mail = Mail::open(Some(&format!("smtp://127.0.0.1:{}", sink.port)), Path::new(""), FROM).unwrap();
    mail.send(&letter()).await.unwrap();
    let all = sink.letters(1).await;
    assert_eq!((all[0].from.contains("oriel@example.org"), all[0].to.as_str()), (true, "ada@example.org"));
    assert!(all[0].data.contains("\n.A line that begins with a dot\n"), "{}", all[0].data);
    assert!(all[0].data.contains(&format!("Message-ID: <{}@example.org>", letter().id.simple())));
    assert!(all[0].data.contains("eighty of them, as it was for long.\n"), "{}", all[0].data);
    // What is not ASCII is encoded.
    mail.send(&Letter { text: "Grüße\n".to_owned(), ..letter() }).await.unwrap();
    let second = sink.letters(2).await.remove(1);
    assert!(second.data.is_ascii() && second.data.contains("Content-Transfer-Encoding: "), "{}", second.data);
    assert_eq!(mail.name(), "smtp");
}

#[tokio::test]
async fn what_a_server_refuses_is_told_without_the_address() {
    let sink = Sink::start("localhost").await;
    let mail = Mail::open(Some(&format!("smtp://127.0.0.1:{}", sink.port)), Path::new(""), FROM).unwrap();
    for (answer, is_final) in [("550 5.1.1 no such user", true), ("451 4.7.1 greylisted", false)] {
        *sink.refuses.lock().unwrap() = Some(answer);
        let error = mail.send(&letter()).await.unwrap_err();
        assert_eq!(error.is_final(), is_final, "{error}");
        assert!(error.to_string().contains(&answer[..3]) && !error.to_string().contains("ada"), "{error}");
        assert!(!error.is_outage());
    }
    *sink.refuses.lock().unwrap() = None;
    mail.send(&letter()).await.unwrap();
}

#[tokio::test]
async fn nothing_is_said_to_a_server_that_cannot_show_who_it_is() {
    let sink = Sink::start("localhost").await;
    // Its certificate is its own: nobody vouches for it.
    let url = format!("smtp://user:secret@127.0.0.1:{}?tls=required", sink.port);
    let error = Mail::open(Some(&url), Path::new(""), FROM).unwrap().send(&letter()).await.unwrap_err();
    assert!(error.is_outage() && !error.is_final(), "{error}");
    assert!(sink.received.borrow().is_empty());
}

#[tokio::test]
async fn who_is_not_there_can_be_tried_again() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mail = Mail::open(Some(&format!("smtp://{gone}")), Path::new(""), FROM).unwrap();
    let error = mail.send(&letter()).await.unwrap_err();
    assert!(error.is_outage() && !error.is_final(), "{error}");
    let nowhere = Letter { to: "not an address".to_owned(), ..letter() };
    assert!(mail.send(&nowhere).await.unwrap_err().is_final());
}

#[tokio::test]
async fn a_server_that_is_back_is_found_and_one_that_was_never_away_is_not_asked() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mail = Mail::open(Some(&format!("smtp://{gone}")), Path::new(""), FROM).unwrap();
    mail.check().await.unwrap();
    assert!(mail.send(&letter()).await.is_err());
    assert!(mail.check().await.unwrap_err().is_outage(), "nobody is there");
    assert_eq!(mail.health().unwrap().outages, 2);
    let sink = Sink::on(tokio::net::TcpListener::bind(gone).await.unwrap(), "localhost");
    mail.check().await.unwrap();
    assert!(mail.health().unwrap().is_up() && sink.received.borrow().is_empty());
    mail.send(&letter()).await.unwrap();
}

#[test]
fn what_is_no_mail_server_is_refused() {
    for url in ["smtp://", "imap://mail.example.org", "mail"] {
        assert!(Mail::open(Some(url), Path::new(""), FROM).is_err(), "{url}");
    }
    assert!(matches!(Mail::open(None, Path::new("/"), "nobody"), Err(OpenError::From)));
    assert!(!format!("{:?}", letter()).contains("ada"));
}
