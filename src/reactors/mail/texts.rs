//! What the letters say: plain text, and the reason why somebody gets it.

use oriel_domain::security_events::SecurityEventKind;
use oriel_kernel::Timestamp;

/// How long a line is at most.
const COLUMNS: usize = 72;

/// A subject and what follows.
pub(super) struct Text {
    pub(super) subject: String,
    pub(super) body: String,
}

/// A link, the ticket in it, and until when it is good.
pub(super) struct Link {
    pub(super) url: String,
    pub(super) ticket: String,
    pub(super) ends_at: Timestamp,
}

fn text(subject: impl Into<String>, name: &str, body: &str) -> Text {
    let greeting = if name.is_empty() { "Hello,".to_owned() } else { format!("Hello {name},") };
    Text { subject: subject.into(), body: wrapped(&format!("{greeting}\n\n{body}\n")) }
}

/// With lines that everybody can read; what is indented stays as it is.
fn wrapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for line in text.lines() {
        if line.starts_with(' ') {
            out.push_str(line);
        } else {
            let mut column = 0;
            for word in line.split(' ') {
                let length = word.chars().count();
                let separator = match column {
                    0 => "",
                    _ if column + 1 + length > COLUMNS => "\n",
                    _ => " ",
                };
                out.push_str(separator);
                out.push_str(word);
                column = if separator == "\n" { length } else { column + separator.len() + length };
            }
        }
        out.push('\n');
    }
    out
}

/// A link on a line of its own, and its ticket for those who use another program.
fn shown(link: &Link, operation: &str) -> String {
    let until = link.ends_at.format("%Y-%m-%d %H:%M UTC");
    format!(
        "    {}\n\nIt is good once, until {until}. A program gives this to `{operation}`:\n\n    {}",
        link.url, link.ticket
    )
}

pub(super) fn welcome(name: &str, link: &Link) -> Text {
    let link = shown(link, "emailConfirm");
    let body = format!(
        "you have registered with this e-mail address. Open this link to show that it is yours:\n\n{link}\n\nIf it \
         was not you, do nothing: without the link the address is not confirmed."
    );
    text("Confirm your e-mail address", name, &body)
}

pub(super) fn password_reset(name: &str, link: &Link) -> Text {
    let link = shown(link, "passwordReset");
    let body = format!(
        "somebody, probably you, has forgotten the password of your account. Open this link to choose another \
         one:\n\n{link}\n\nIf it was not you, do nothing: your password stays as it is."
    );
    text("Choose another password", name, &body)
}

pub(super) fn data_export_ready(name: &str, url: &str, ends_at: Timestamp) -> Text {
    let until = ends_at.format("%Y-%m-%d %H:%M UTC");
    let body = format!(
        "everything that is held about you was gathered into a file. Sign in at {url} to download it (`dataExports`); \
         it is there until {until}.\n\nIf you did not ask for it, the operator of the installation did: nobody but you \
         can download it."
    );
    text("Your data can be downloaded", name, &body)
}

pub(super) fn password_changed(name: &str) -> Text {
    let body = "your password was changed, and you were signed out elsewhere.\n\nIf it was not you, choose another \
                one now: ask for a link where you sign in.";
    text("Your password was changed", name, body)
}

pub(super) fn email_confirm(name: &str, link: &Link) -> Text {
    let link = shown(link, "emailConfirm");
    let body = format!(
        "somebody, probably you, wants to use this e-mail address for their account. Open this link to show that it \
         is yours:\n\n{link}\n\nIf it was not you, do nothing: the account keeps its old address."
    );
    text("Confirm your e-mail address", name, &body)
}

pub(super) fn email_moving(name: &str) -> Text {
    let body = "somebody who knows your password wants another e-mail address for your account. It is used from the \
                moment when a link that was sent there is opened.\n\nIf it was not you, change your password now: \
                that ends it.";
    text("Your account is to have another e-mail address", name, body)
}

pub(super) fn second_factor_on(name: &str) -> Text {
    let body = "a second factor was set up: from now on you are asked for a code of your authenticator when you sign \
                in. Keep your recovery codes where the authenticator is not.\n\nIf it was not you, tell whoever \
                operates this installation at once.";
    text("A second factor was set up", name, body)
}

pub(super) fn second_factor_off(name: &str) -> Text {
    let body = "your authenticator was given up: no code of it is asked for any more. Without a passkey your password \
                alone signs you in again.\n\nIf it was not you, change your password now.";
    text("Your second factor was given up", name, body)
}

pub(super) fn passkey_added(name: &str) -> Text {
    let body = "a passkey was added to your account: it signs you in by itself, and is asked for after your \
                password.\n\nIf it was not you, change your password and remove the passkey now.";
    text("A passkey was added", name, body)
}

pub(super) fn passkey_removed(name: &str) -> Text {
    let body = "a passkey of your account was removed: it signs you in no longer.\n\nIf it was not you, change your \
                password now.";
    text("A passkey was removed", name, body)
}

pub(super) fn passkey_copied(name: &str) -> Text {
    let body = "a passkey of your account was used, and it had counted fewer signatures than before: there may be a \
                copy of it. Whoever used it was not signed in.\n\nSign in in another way, remove the passkey, and \
                register another one.";
    text("A passkey of yours may have been copied", name, body)
}

pub(super) fn second_factor_reset(name: &str) -> Text {
    let body = "your second factor was taken away by somebody who may do that, because it was said to be lost: \
                authenticator, passkeys and recovery codes. You were signed out everywhere; your password alone signs \
                you in until you set up another one.\n\nIf you did not ask for it, change your password, set up a \
                second factor, and tell whoever operates this installation.";
    text("Your second factor was taken away", name, body)
}

/// What looks like an attack on the person; nothing of what another letter says already.
pub(super) fn security_alert(
    name: &str,
    kind: SecurityEventKind,
    at: Timestamp,
    from: &str,
    count: i32,
) -> Option<Text> {
    let at = at.format("%Y-%m-%d %H:%M UTC");
    let from = if from.is_empty() { "an address that is not known" } else { from };
    let (subject, what) = match kind {
        SecurityEventKind::UnusualSignIn => (
            "A sign-in from somewhere new",
            format!(
                "somebody signed in to your account on {at}, from where you have not signed in before and with a device \
                 that you have not used before:\n\n    {from}"
            ),
        ),
        SecurityEventKind::SignInAfterFailures => (
            "A sign-in after many wrong passwords",
            format!(
                "on {at} somebody gave the right password or code of your account, after {count} wrong ones:\n\n    {from}"
            ),
        ),
        SecurityEventKind::RefreshTokenReused => (
            "A session of yours was ended",
            format!(
                "on {at} a token of one of your sessions was used twice, so somebody else may hold it. The session has \
                 been ended; sign in again."
            ),
        ),
        SecurityEventKind::AccountGuessing
        | SecurityEventKind::PasswordSpraying
        | SecurityEventKind::PasskeyCopied
        | SecurityEventKind::SecondFactorReset
        | SecurityEventKind::SecondFactorRemoved
        | SecurityEventKind::ManyReadings => return None,
    };
    let body = format!(
        "{what}\n\nIf it was you, do nothing. If it was not, change your password, end the sessions that you do not know, \
         and tell whoever looks after your organization."
    );
    Some(text(subject, name, &body))
}

pub(super) fn invitation(organization: &str, host: Option<&str>, link: &Link) -> Text {
    let host = host.filter(|name| !name.is_empty()).unwrap_or("Somebody");
    let link = shown(link, "memberAccept");
    let body = format!(
        "{host} invites you to join {organization}. Open this link to accept:\n\n{link}\n\nIf you do not want to, do \
         nothing."
    );
    text(format!("You are invited to join {organization}"), "", &body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn alert(kind: SecurityEventKind, from: &str) -> Option<Text> {
        security_alert("Ada", kind, Timestamp::from_timestamp(0, 0).unwrap(), from, 12)
    }

    #[test]
    fn lines_are_short_but_for_links() {
        let url = format!("https://oriel.example/#password-reset={}", "x".repeat(200));
        let link =
            Link { url: url.clone(), ticket: "x".repeat(200), ends_at: Timestamp::from_timestamp(0, 0).unwrap() };
        for text in [
            welcome("Ada", &link),
            password_reset("Ada", &link),
            password_changed(""),
            email_confirm("Ada", &link),
            email_moving("Ada"),
            second_factor_on("Ada"),
            second_factor_off("Ada"),
            passkey_added("Ada"),
            passkey_removed("Ada"),
            passkey_copied("Ada"),
            second_factor_reset("Ada"),
            invitation("Engines", None, &link),
            alert(SecurityEventKind::UnusualSignIn, "192.0.2.7, Firefox on Linux").unwrap(),
            alert(SecurityEventKind::SignInAfterFailures, "").unwrap(),
            alert(SecurityEventKind::RefreshTokenReused, "").unwrap(),
        ] {
            let long: Vec<&str> = text.body.lines().filter(|line| line.chars().count() > COLUMNS).collect();
            assert!(long.iter().all(|line| line.starts_with("    ")), "{}", text.body);
            assert!(text.body.ends_with(".\n") && !text.body.contains(" \n"), "{}", text.body);
        }
        assert!(welcome("Ada", &link).body.contains(&format!("\n    {url}\n")));
        assert!(password_changed("").body.starts_with("Hello,\n\nyour password"));
    }
}
