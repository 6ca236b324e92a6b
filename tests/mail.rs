//! Mail: what people are written, by a real server that is spoken to over TLS, and what they do with the links.

use serde_json::{Value, json};

use crate::support::{Server, Session, Sink, databases};

const SIGNED_IN: &str =
    "{ accessToken userErrors { code } viewer { user { id email emailVerified } organization { id } } }";

async fn mutate(session: &Session, field: &str, input: Value, selection: &str) -> Value {
    let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let query = format!("mutation($input: {type_name}!) {{ {field}(input: $input) {selection} }}");
    session.ask(&query, json!({ "input": input })).await[field].take()
}

/// The ticket in a letter: its last indented line.
fn ticket(letter: &str) -> String {
    let line = letter.lines().filter_map(|line| line.strip_prefix("    ")).next_back();
    line.unwrap_or_else(|| panic!("no ticket: {letter}")).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_written_and_does_by_links_what_they_are_for() {
    for database in databases() {
        let sink = Sink::start("localhost").await;
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority.pem");
        std::fs::write(&authority, &sink.certificate).unwrap();
        let mut environment = vec![
            ("ORIEL_MAIL_URL", format!("smtp://oriel:p%40ss+word@localhost:{}?tls=required", sink.port)),
            ("ORIEL_MAIL_FROM", "Oriel <oriel@example.org>".to_owned()),
            ("SSL_CERT_FILE", authority.display().to_string()),
        ];
        environment.extend(database.map(|url| ("ORIEL_DATABASE_URL", url)));
        // Greylisted at first: it is tried again.
        *sink.refuses.lock().unwrap() = Some("451 4.7.1 come again");
        let server = Server::start_among(environment).await;
        let ada = server.register("Ada").await;
        let nobody = Session { token: String::new(), ..ada.clone() };
        let waits = "{ system { queues { name depth running failed } backends { name kind } } }";
        let waits = ada.until(waits, json!({}), |answer| queue(answer, "depth") == 1).await;
        let backends = waits["system"]["backends"].as_array().unwrap();
        assert!(backends.iter().any(|one| one == &json!({ "name": "mail", "kind": "smtp" })), "{waits}");
        assert!(sink.received.borrow().is_empty());
        *sink.refuses.lock().unwrap() = None;

        let welcome = sink.letters(1).await.remove(0);
        assert_eq!((welcome.to.as_str(), welcome.encrypted), ("ada@example.org", true));
        assert_eq!(welcome.signed_in.as_deref(), Some("oriel:p@ss+word"));
        assert!(welcome.data.contains(&format!("{}/#email-confirm=", server.url)), "{}", welcome.data);
        let confirmed =
            mutate(&nobody, "emailConfirm", json!({ "token": ticket(&welcome.data) }), "{ userErrors { code } }").await;
        assert_eq!(confirmed["userErrors"], json!([]));
        let me = ada.ask("{ viewer { user { emailVerified } } }", json!({})).await;
        assert_eq!(me["viewer"]["user"]["emailVerified"], true);

        // A forgotten password.
        let asked = "{ goodForMinutes userErrors { code } }";
        for email in ["nobody@example.org", "ADA@example.org"] {
            let answer = mutate(&nobody, "passwordResetRequest", json!({ "email": email }), asked).await;
            assert_eq!(answer, json!({ "goodForMinutes": 60, "userErrors": [] }));
        }
        let letter = sink.letters(2).await.remove(1);
        assert_eq!(letter.to, "ada@example.org");
        let reset = json!({ "token": ticket(&letter.data), "newPassword": "quiet heron at the desk" });
        let done = mutate(&nobody, "passwordReset", reset.clone(), "{ userErrors { code } }").await;
        assert_eq!(done["userErrors"], json!([]));
        let again = mutate(&nobody, "passwordReset", reset, "{ userErrors { code } }").await;
        assert_eq!(again["userErrors"], json!([{ "code": "EXPIRED" }]), "a link is good once");
        let told = sink.letters(3).await.remove(2);
        assert!(told.to == "ada@example.org" && told.data.contains("your password was changed"), "{}", told.data);
        let login = json!({ "email": "ada@example.org", "password": "quiet heron at the desk" });
        let signed_in = mutate(&nobody, "login", login.clone(), SIGNED_IN).await;
        let ada = Session { token: signed_in["accessToken"].as_str().unwrap().to_owned(), ..ada };

        // Another address: the new one confirms, the old one is told.
        let change = json!({ "email": "countess@example.org", "currentPassword": "quiet heron at the desk" });
        mutate(&ada, "emailChange", change, "{ userErrors { code } }").await;
        let two = sink.letters(5).await.split_off(3);
        let to = |address: &str| two.iter().find(|letter| letter.to == address).unwrap();
        assert!(to("ada@example.org").data.replace('\n', " ").contains("wants another e-mail address"));
        let token = json!({ "token": ticket(&to("countess@example.org").data) });
        mutate(&nobody, "emailConfirm", token, "{ userErrors { code } }").await;
        let moved = json!({ "email": "countess@example.org", "password": "quiet heron at the desk" });
        assert_eq!(mutate(&nobody, "login", moved, SIGNED_IN).await["userErrors"], json!([]));
        let old = mutate(&nobody, "login", login, SIGNED_IN).await;
        assert_eq!(old["userErrors"], json!([{ "code": "INVALID_CREDENTIALS" }]));

        // An invitation, accepted with what the mail says.
        let invite = json!({ "email": "bob@example.org", "roles": ["member"] });
        let invited = mutate(&ada, "memberInvite", invite, "{ invitationToken userErrors { code } }").await;
        let letter = sink.letters(6).await.remove(5);
        assert_eq!(letter.to, "bob@example.org");
        assert!(letter.data.contains("Ada Owner invites you to join Ada"), "{}", letter.data);
        assert_eq!(ticket(&letter.data), invited["invitationToken"]);
        let accept = json!({ "token": ticket(&letter.data), "name": "Bob", "password": "seven quiet otters" });
        let bob = mutate(&nobody, "memberAccept", accept, SIGNED_IN).await;
        assert_eq!(bob["viewer"]["organization"], signed_in["viewer"]["organization"], "{bob}");
        sink.letters(7).await;
        let queues = "{ system { queues { name depth running failed } } }";
        ada.until(queues, json!({}), |answer| queue(answer, "depth") == 0 && queue(answer, "failed") == 0).await;
    }
}

fn queue(answer: &Value, what: &str) -> i64 {
    let queues = answer["system"]["queues"].as_array().unwrap();
    queues.iter().find(|queue| queue["name"] == "mail").and_then(|queue| queue[what].as_i64()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_letters_are_files() {
    let server = Server::start(None).await;
    let ada = server.register("Ada").await;
    let queues = "{ system { queues { name depth running failed } } }";
    let outbox = server.folder().join("data/outbox");
    ada.until(queues, json!({}), |_| {
        std::fs::read_dir(&outbox).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "eml"))
    })
    .await;
}
