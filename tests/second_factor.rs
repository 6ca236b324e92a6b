//! The second factor through the real program, with codes that another program makes: `oathtool`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Server, Session, databases};

/// The code of this secret, so many steps of thirty seconds from now; nothing when the program is not installed, which
/// is said on the console and is a failure with `ORIEL_REQUIRE_SERVERS=1`.
pub fn oathtool(secret: &str, now: u64, step: u64) -> Option<String> {
    let at = format!("@{}", now + 30 * step);
    match Command::new("oathtool").args(["--totp", "--base32", "--now", &at, secret]).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        }
        Err(_) => {
            assert!(std::env::var_os("ORIEL_REQUIRE_SERVERS").is_none(), "oathtool is missing (Debian: oathtool)");
            eprintln!("not run: oathtool is missing (Debian: oathtool)");
            None
        }
    }
}

async fn mutate(session: &Session, field: &str, input: Value, selection: &str) -> Value {
    let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let query = format!("mutation($input: {type_name}!) {{ {field}(input: $input) {selection} }}");
    session.ask(&query, json!({ "input": input })).await[field].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_of_another_program_sign_in_once() {
    for database in databases() {
        let server = Server::start(database).await;
        let ada = server.register("Ada").await;
        let nobody = Session { token: String::new(), ..ada.clone() };
        let begun =
            mutate(&ada, "totpBegin", json!({ "currentPassword": "correct horse battery" }), "{ secret }").await;
        let secret = begun["secret"].as_str().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // The first of two steps, each of which is good for the next half minute at least.
        let (Some(first), Some(second)) = (oathtool(secret, now, 0), oathtool(secret, now, 1)) else { return };
        let confirmed =
            mutate(&ada, "totpConfirm", json!({ "code": first }), "{ recoveryCodes userErrors { code } }").await;
        let recovery = confirmed["recoveryCodes"][0].as_str().unwrap_or_else(|| panic!("{confirmed}")).to_owned();

        let login = json!({ "email": "ada@example.org", "password": "correct horse battery" });
        let challenge = "{ accessToken mfaToken userErrors { code } }";
        let challenged = mutate(&nobody, "login", login, challenge).await;
        assert_eq!(challenged["userErrors"], json!([{ "code": "MFA_REQUIRED" }]));
        assert_eq!(challenged["accessToken"], Value::Null);
        let verify = async |code: &str| {
            let input = json!({ "mfaToken": challenged["mfaToken"], "code": code });
            mutate(&nobody, "loginVerify", input, "{ accessToken userErrors { code } }").await
        };
        assert_eq!(verify(&first).await["userErrors"], json!([{ "code": "INVALID_CREDENTIALS" }]));
        assert!(verify(&second).await["accessToken"].is_string());
        assert_eq!(verify(&second).await["userErrors"], json!([{ "code": "INVALID_CREDENTIALS" }]));
        assert!(verify(&recovery).await["accessToken"].is_string());
        assert_eq!(verify(&recovery).await["userErrors"], json!([{ "code": "INVALID_CREDENTIALS" }]));
    }
}
