//! The golden files of the product's events, in the folder `golden`: for each type and version what its bytes mean.
//!
//! A new event type, or a new version of one, gets a sample here and its file by
//! `ORIEL_BLESS=1 cargo test -p oriel-domain golden`. An old version keeps its file and its sample, as what it becomes
//! today: `Sample::once`. The names of roles, stages and reasons are data as well: each stands in one of the files.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use oriel_kernel::{Actor, Id, IdKind, OrganizationId, Pattern, Personal, Position};

use crate::DECODERS;
use crate::api_keys::{ApiKeyEvent, ApiKeyName};
use crate::consents::ConsentEvent;
use crate::data_exports::{DataExportEvent, ExportEnd};
use crate::documents::{Awaited, DocumentEvent, ExtractedText, ReleaseReason, Stage, Tags, Title};
use crate::identities::IdentityEvent;
use crate::identity_providers::{IdentityProviderEvent, Issuer, SealedSecret, Settings};
use crate::installation::{FeatureDescription, FeatureKey, InstallationEvent, Notice, Registration};
use crate::members::MemberEvent;
use crate::organizations::{
    Cleaned, Language, MasterKeyName, MasterKeyPlace, OrganizationEvent, OrganizationName, Slug, SuspensionReason,
    TimeZone,
};
use crate::persisted_operations::{
    OperationBody, OperationHash, OperationKind, OperationName, OperationsMode, PersistedOperationEvent,
};
use crate::policies::{PolicyEvent, PolicyKey, PolicyText, PolicyTitle};
use crate::projects::{Description, ProjectEvent, ProjectKey, ProjectName};
use crate::retention::{RetentionEvent, RetentionKind};
use crate::roles::{Role, RoleDescription, RoleEvent, RoleName, RoleTitle};
use crate::security_events::{SecurityEventEvent, SecurityEventKind, SecurityReason, Severity};
use crate::sessions::{EndReason, SessionEvent, SignInMethod};
use crate::testing::{at, member, user, uuid};
use crate::users::UserEvent;
use crate::users::preferences::Theme;

mod files;

use files::{Sample, problems};

#[test]
fn every_event_that_was_ever_written_decodes_to_what_it_meant() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let may_write = std::env::var_os("ORIEL_BLESS").is_some();
    let problems = problems(&folder, DECODERS, &samples(), may_write);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn samples() -> Vec<Sample> {
    let all = [
        users(),
        passkeys(),
        erased_users(),
        organizations(),
        members(),
        sessions(),
        projects(),
        documents(),
        persisted_operations(),
        roles(),
        api_keys(),
        identity_providers(),
        identities(),
        data_exports(),
        policies(),
        security_events(),
        installation(),
        retention(),
    ];
    all.into_iter().flatten().collect()
}

fn id<K: IdKind>(number: u128) -> Id<K> {
    Id::from_uuid(uuid(number))
}

fn organization() -> OrganizationId {
    id(0x0a)
}

/// Something that is said about the person 11.
fn said(text: &str) -> Personal<String> {
    Personal::new(user(11), text.to_owned())
}

fn policies() -> Vec<Sample> {
    let published = |blocking| PolicyEvent::Published {
        organization: organization(),
        key: PolicyKey::parse("privacy").unwrap(),
        revision: 2,
        title: PolicyTitle::parse("Privacy").unwrap(),
        text: PolicyText::parse("We keep\nlittle.").unwrap(),
        required: true,
        blocking,
    };
    let given = ConsentEvent::Given { organization: organization(), policy: id(0x50), revision: 2, user: user(11) };
    vec![
        Sample::once(1, published(false)),
        Sample::today(published(true)),
        Sample::today(PolicyEvent::Retired),
        Sample::today(given),
        Sample::today(ConsentEvent::Withdrawn),
    ]
}

fn retention() -> Vec<Sample> {
    let changed = |kind, days| Sample::today(RetentionEvent::Changed { organization: organization(), kind, days });
    vec![
        changed(RetentionKind::Sessions, Some(30)),
        changed(RetentionKind::Invitations, Some(7)).case("invitations"),
        changed(RetentionKind::AccessLog, Some(365)).case("access_log"),
        changed(RetentionKind::Trash, None).case("trash"),
    ]
}

/// Each kind, with a severity and reasons of its own.
fn security_events() -> Vec<Sample> {
    use SecurityEventEvent as E;
    use SecurityReason as R;
    let raised = |kind: SecurityEventKind, severity, reasons: &[SecurityReason]| E::Raised {
        organization: organization(),
        kind,
        severity,
        reasons: reasons.to_vec(),
        user: user(11),
        member: Some(member(21)),
        actor: Some(Actor::Member(member(22))),
        address: Some(said("192.0.2.7")),
        program: Some(said("Mozilla/5.0")),
        began_at: at(7),
        count: 1,
        letter: true,
    };
    let least = E::Raised {
        organization: organization(),
        kind: SecurityEventKind::PasswordSpraying,
        severity: Severity::High,
        reasons: vec![R::WrongSecrets, R::ManyAccounts],
        user: user(11),
        member: None,
        actor: None,
        address: None,
        program: None,
        began_at: at(7),
        count: 8,
        letter: false,
    };
    use SecurityEventKind as K;
    let others = [
        (K::RefreshTokenReused, Severity::High, vec![R::UsedTwice]),
        (K::SignInAfterFailures, Severity::High, vec![R::WrongSecrets]),
        (K::AccountGuessing, Severity::Medium, vec![R::WrongSecrets]),
        (K::PasskeyCopied, Severity::High, vec![R::CounterWentBack]),
        (K::SecondFactorReset, Severity::Medium, vec![R::ByAnother]),
        (K::SecondFactorRemoved, Severity::Low, vec![R::ByThemselves, R::NoSecondFactorLeft]),
        (K::ManyReadings, Severity::Medium, vec![R::ManyReadings]),
    ];
    let unusual = raised(K::UnusualSignIn, Severity::Medium, &[R::NewNetwork, R::NewDevice]);
    let mut samples = vec![
        Sample::today(unusual),
        Sample::today(least).case("least"),
        Sample::today(E::Continued { count: 20 }),
        Sample::today(E::Acknowledged { note: Some(said("It was me.")) }),
        Sample::today(E::Acknowledged { note: None }).case("least"),
    ];
    let other =
        |(kind, severity, reasons): (K, _, Vec<R>)| Sample::today(raised(kind, severity, &reasons)).case(kind.as_str());
    samples.extend(others.into_iter().map(other));
    samples
}

fn installation() -> Vec<Sample> {
    use InstallationEvent as E;
    let feature = || FeatureKey::parse("new-editor").unwrap();
    let description = || FeatureDescription::parse("The editor of this year.").unwrap();
    let overridden = |enabled| E::FeatureOverridden { feature: feature(), organization: organization(), enabled };
    vec![
        Sample::today(E::RegistrationSet { registration: Some(Registration::Invite) }),
        Sample::today(E::RegistrationSet { registration: Some(Registration::Open) }).case("open"),
        Sample::today(E::RegistrationSet { registration: None }).case("none"),
        Sample::today(E::NoticeSet { notice: Notice::parse("Back at noon.").ok() }),
        Sample::today(E::NoticeSet { notice: None }).case("none"),
        Sample::today(E::MaintenanceSet { maintenance: true }),
        Sample::today(E::FeatureAdded { feature: feature(), description: description(), enabled: false }),
        Sample::today(E::FeatureChanged { feature: feature(), description: description(), enabled: true }),
        Sample::today(overridden(Some(true))),
        Sample::today(overridden(None)).case("none"),
        Sample::today(E::FeatureRemoved { feature: feature() }),
    ]
}

fn data_exports() -> Vec<Sample> {
    use DataExportEvent as E;
    let (size, sha256, blob) = (7, "5a".repeat(32), "exports/0199".to_owned());
    let ended = |name, reason, blob| Sample::today(E::Ended { reason, blob }).case(name);
    vec![
        Sample::today(E::Requested { user: user(11) }),
        Sample::today(E::Started { attempt: 1 }),
        Sample::today(E::Failed { attempt: 1, reason: "The store is away.".to_owned() }),
        Sample::today(E::Completed { blob: blob.clone(), size, sha256, ends_at: at(7) }),
        Sample::today(E::Ended { reason: ExportEnd::Expired, blob: Some(blob) }),
        ended("discarded", ExportEnd::Discarded, None),
        ended("erased", ExportEnd::Erased, None),
        ended("failed", ExportEnd::Failed, None),
    ]
}

fn users() -> Vec<Sample> {
    use UserEvent as E;
    let prefers = |theme, case| {
        Sample::today(E::PreferencesChanged { theme: Some(theme), language: None, time_zone: None }).case(case)
    };
    let registered = |username: Option<&str>| E::Registered {
        email: said("Ada@example.org"),
        email_hash: "hash-of-ada@example.org".to_owned(),
        username: username.map(said),
        username_hash: username.map(|name| format!("hash-of-{name}")),
        name: said("Ada Lovelace"),
        password_hash: Some(said("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA")),
    };
    let provisioned = E::Registered {
        email: said("Ada@example.org"),
        email_hash: "hash-of-ada@example.org".to_owned(),
        username: None,
        username_hash: None,
        name: said("Ada Lovelace"),
        password_hash: None,
    };
    vec![
        Sample::today(registered(Some("countess"))),
        Sample::today(registered(None)).case("least"),
        Sample::today(provisioned).case("provisioned"),
        Sample::today(E::Renamed { name: said("Ada King, “Gräfin”") }),
        Sample::today(E::PreferencesChanged {
            theme: Some(Theme::Dark),
            language: Some(said("pt-BR")),
            time_zone: Some(said("Europe/Vienna")),
        }),
        Sample::today(E::PreferencesChanged { theme: None, language: None, time_zone: None }).case("least"),
        prefers(Theme::Light, "light"),
        prefers(Theme::System, "system"),
        Sample::today(E::PasswordRehashed { password_hash: said("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$YmV0dGVy") }),
        Sample::today(E::PasswordChanged { password_hash: said("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$bmV3") }),
        Sample::today(E::PasswordResetRequested { request: "0a1b2c".to_owned(), ends_at: at(3_600) }),
        Sample::today(E::PasswordReset { password_hash: said("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$cmVzZXQ") }),
        Sample::today(E::EmailVerified),
        Sample::today(E::EmailChangeRequested {
            from: said("Ada@example.org"),
            email: said("countess@example.org"),
            email_hash: "hash-of-countess@example.org".to_owned(),
            ends_at: at(7_200),
        }),
        Sample::today(E::EmailChanged {
            email: said("countess@example.org"),
            email_hash: "hash-of-countess@example.org".to_owned(),
        }),
        Sample::today(E::TotpBegun { secret: said("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ") }),
        Sample::today(E::TotpConfirmed { step: 60_000_000, recovery_hashes: vec!["hash-1".to_owned()] }),
        Sample::today(E::TotpUsed { step: 60_000_001 }),
        Sample::today(E::RecoveryCodeUsed { hash: "hash-1".to_owned() }),
        Sample::today(E::RecoveryCodesReplaced { hashes: vec!["hash-2".to_owned(), "hash-3".to_owned()] }),
        Sample::today(E::TotpDisabled),
        Sample::today(E::SecondFactorReset { reason: said("The telephone fell into the Thames.") }),
    ]
}

fn passkeys() -> Vec<Sample> {
    use UserEvent as E;
    let (challenge, ends_at) = ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE".to_owned(), at(300));
    let registered = |transports: &[&str], recovery: &[&str]| E::PasskeyRegistered {
        passkey: id(0x51),
        handle: "hash-of-11".to_owned(),
        name: said("Telephone"),
        credential: said("BwcHBwcHBwcHBwcHBwcHBw"),
        credential_hash: "hash-of-credential".to_owned(),
        public_key: said("pAEBAycgBiFYIA"),
        counter: 3,
        transports: transports.iter().map(|&name| name.to_owned()).collect(),
        backed_up: true,
        challenge: challenge.clone(),
        ends_at,
        recovery_hashes: recovery.iter().map(|&hash| hash.to_owned()).collect(),
    };
    vec![
        Sample::today(registered(&["internal", "hybrid"], &["hash-1"])),
        Sample::today(registered(&[], &[])).case("least"),
        Sample::today(E::PasskeyUsed {
            passkey: id(0x51),
            counter: 4,
            backed_up: false,
            challenge: challenge.clone(),
            ends_at,
        }),
        Sample::today(E::PasskeyCloneSuspected {
            passkey: id(0x51),
            counter: 2,
            expected_above: 4,
            challenge: challenge.clone(),
            ends_at,
        }),
        Sample::today(E::PasskeyRenamed { passkey: id(0x51), name: said("Old telephone") }),
        Sample::today(E::PasskeyRemoved { passkey: id(0x51) }),
    ]
}

fn erased_users() -> Vec<Sample> {
    use UserEvent as E;
    vec![
        Sample::today(E::Erased),
        Sample::today(E::MadeAnew { subjects: vec![uuid(31), uuid(32)] }),
        Sample::today(E::ErasureCompleted {
            stores: vec![Cleaned { store: "users".to_owned(), position: Position::new(77) }],
        }),
    ]
}

fn organizations() -> Vec<Sample> {
    use OrganizationEvent as E;
    let name = |text| OrganizationName::parse(text).unwrap();
    let slug = Slug::parse("analytical-engines").unwrap();
    let key = |id: &str, place| MasterKeyName { id: id.to_owned(), place };
    let rotated = |from, to| {
        let (from, to) = (key("0123456789abcdef", from), key("fedcba9876543210", to));
        Sample::today(E::MasterKeyRotated { from, to })
    };
    vec![
        Sample::today(E::Created { organization: organization(), name: name("Analytical"), slug, owner: user(11) }),
        Sample::today(E::Renamed { name: name("Analytical Engines") }),
        Sample::today(E::OwnerChanged { owner: user(12) }),
        Sample::today(E::Configured {
            language: Language::parse("en-GB").ok(),
            time_zone: TimeZone::parse("Europe/London").ok(),
        }),
        Sample::today(E::Configured { language: None, time_zone: None }).case("least"),
        Sample::today(E::SecondFactorRequired { required: true }),
        Sample::today(E::SigningKeyAdded),
        rotated(MasterKeyPlace::File, MasterKeyPlace::Kms("arn:aws:kms:eu-central-1:1:key/2".to_owned())),
        rotated(MasterKeyPlace::Settings, MasterKeyPlace::File).case("settings"),
        Sample::today(E::Suspended { reason: SuspensionReason::parse("The bill was not paid.").unwrap() }),
        Sample::today(E::Reinstated),
        Sample::today(E::DeletionScheduled { ends_at: at(30) }),
        Sample::today(E::DeletionCancelled),
        Sample::today(E::Ended),
        Sample::today(E::RowsRemoved { read_model: "documents".to_owned(), ids: vec![uuid(31), uuid(32)] }),
        Sample::today(E::Erased {
            stores: vec![Cleaned { store: "documents".to_owned(), position: Position::new(77) }],
        }),
    ]
}

fn members() -> Vec<Sample> {
    use MemberEvent as E;
    let of = |roles: &[RoleName]| roles.iter().copied().map(Role::from).collect();
    let joined = |roles| E::Joined { organization: organization(), user: user(11), roles };
    let invited = E::Invited {
        organization: organization(),
        user: user(11),
        email: said("ada@example.org"),
        email_hash: "hash-of-ada@example.org".to_owned(),
        roles: vec![RoleName::Member.into()],
        invited_by: member(21),
    };
    vec![
        Sample::today(invited),
        Sample::today(joined(vec![RoleName::Owner.into()])),
        Sample::today(E::RolesChanged {
            roles: of(&[RoleName::Owner, RoleName::Admin, RoleName::Member, RoleName::Viewer]),
        }),
        Sample::today(E::RolesChanged { roles: of(RoleName::ALL) }).case("every"),
        Sample::today(E::RolesChanged { roles: vec![RoleName::Viewer.into(), Role::Custom(id(0x41))] }).case("made"),
        Sample::today(E::PermissionGranted { permission: pattern("documents:view:own") }),
        Sample::today(E::PermissionRevoked { permission: pattern("*:view") }),
        Sample::today(E::Suspended),
        Sample::today(E::Reactivated),
        Sample::today(E::SecondFactorReset { reason: said("The telephone fell into the Thames.") }),
        Sample::once(1, E::Removed { active: true }),
        Sample::today(E::Removed { active: true }),
        Sample::today(E::Removed { active: false }).case("withdrawn"),
    ]
}

fn sessions() -> Vec<Sample> {
    use SessionEvent as E;
    let started = |ip: Option<&str>, user_agent: Option<&str>, provider, method| E::Started {
        user: user(11),
        member: member(21),
        organization: organization(),
        refresh_hash: "hash-of-the-first".to_owned(),
        ip: ip.map(said),
        user_agent: user_agent.map(said),
        expires_at: at(3_600),
        provider,
        method,
    };
    let ended = |reason| Sample::today(E::Ended { reason });
    let by = |method, case| Sample::today(started(None, None, None, Some(method))).case(case);
    vec![
        Sample::today(started(Some("192.0.2.7"), Some("Mozilla/5.0"), None, None)),
        Sample::today(started(None, None, None, None)).case("least"),
        Sample::today(started(None, None, Some(id(0x51)), None)).case("provider"),
        by(SignInMethod::Password, "password"),
        by(SignInMethod::PasswordAndCode, "password_and_code"),
        by(SignInMethod::PasswordAndPasskey, "password_and_passkey"),
        by(SignInMethod::Passkey, "passkey"),
        Sample::today(E::Refreshed { refresh_hash: "hash-of-the-second".to_owned(), expires_at: at(7_200) }),
        ended(EndReason::SignedOut),
        ended(EndReason::Revoked).case("revoked"),
        ended(EndReason::Reused).case("reused"),
        ended(EndReason::Switched).case("switched"),
        ended(EndReason::Expired).case("expired"),
        ended(EndReason::Deactivated).case("deactivated"),
        ended(EndReason::Unlinked).case("unlinked"),
        Sample::today(E::Forgotten),
    ]
}

fn projects() -> Vec<Sample> {
    use ProjectEvent as E;
    let name = |text| ProjectName::parse(text).unwrap();
    let description = |text| Description::parse(text).unwrap();
    let created = |description: Option<Description>| E::Created {
        project: id(0x31),
        organization: organization(),
        key: ProjectKey::parse("ATLAS2").unwrap(),
        name: name("Atlas"),
        description,
        owner: member(21),
    };
    vec![
        Sample::today(created(Some(description("Maps.\nAnd \"legends\".")))),
        Sample::today(created(None)).case("least"),
        Sample::today(E::Renamed { name: name("Atlas of the world") }),
        Sample::today(E::Described { description: description("") }),
        Sample::today(E::Archived),
        Sample::today(E::Restored),
        Sample::today(E::MemberAdded { member: member(22) }),
        Sample::today(E::MemberRemoved { member: member(22) }),
    ]
}

fn documents() -> Vec<Sample> {
    use DocumentEvent as E;
    let title = |text| Title::parse(text).unwrap();
    let tags = |texts: &[&str]| Tags::parse(texts).unwrap().as_slice().to_vec();
    let uploaded = E::Uploaded {
        organization: organization(),
        project: id(0x31),
        title: title("Plan 2031"),
        file_name: said("Plan 2031.pdf"),
        media_type: "application/pdf".to_owned(),
        size: 5_000_000_000,
        sha256: "0a".repeat(32),
        blob: "files/0a0b".to_owned(),
        tags: tags(&["plan", "año"]),
        uploaded_by: member(21),
    };
    let revised = E::RevisionAdded {
        project: id(0x31),
        revision: 2,
        file_name: said("Plan 2031 (2).md"),
        media_type: "text/markdown".to_owned(),
        size: 17,
        sha256: "0b".repeat(32),
        blob: "files/0c0d".to_owned(),
        uploaded_by: member(22),
    };
    let text = ExtractedText {
        blob: "texts/0e0f".to_owned(),
        sha256: "0c".repeat(32),
        characters: 40_000_000,
        truncated: true,
    };
    let extracted = E::TextExtracted {
        revision: 1,
        text: Some(text),
        page_count: Some(117),
        language: Some("de".to_owned()),
        title: Some("Der Plan".to_owned()),
    };
    let nothing = E::TextExtracted { revision: 1, text: None, page_count: None, language: None, title: None };
    let completed = |stage| Sample::today(E::StageCompleted { revision: 1, stage, attempt: 1 });
    let skipped =
        |stage, reason: &str| Sample::today(E::StageSkipped { revision: 1, stage, reason: reason.to_owned() });
    let scanned = |signature: Option<&str>| E::Scanned {
        revision: 2,
        attempt: 3,
        engine: "ClamAV 1.4.6/27500".to_owned(),
        signature: signature.map(str::to_owned),
    };
    let restored = |awaits| E::Restored { project: id(0x31), size: 5_000_000_017, revision: 2, awaits };
    let failed = E::StageFailed {
        revision: 2,
        stage: Stage::Extract,
        attempt: 3,
        reason: "It wants a password.".to_owned(),
        retrying: false,
    };
    vec![
        Sample::today(uploaded),
        Sample::today(revised),
        Sample::today(E::Renamed { title: title("Plan 2032") }),
        Sample::today(E::Tagged { tags: tags(&["b", "a"]) }),
        Sample::today(E::Moved { from: id(0x31), to: id(0x32), size: 5_000_000_017 }),
        Sample::today(E::StageStarted { revision: 1, stage: Stage::Scan, attempt: 2 }),
        completed(Stage::Validate),
        completed(Stage::Store).case("store"),
        completed(Stage::Index).case("index"),
        skipped(Stage::Thumbnail, "Not in this release."),
        skipped(Stage::Notify, "Nobody waits.").case("notify"),
        Sample::today(failed),
        Sample::today(E::Retried { revision: 2, stage: Stage::Extract, attempt: 4 }),
        Sample::today(E::ScanOrdered { revision: 2, attempt: 3 }),
        Sample::today(scanned(Some("Win.Test.EICAR_HDB-1"))),
        Sample::today(scanned(None)).case("least"),
        Sample::today(E::Released {
            revision: 2,
            reason: ReleaseReason::parse("A “false” positive.").unwrap(),
            by: member(22),
        }),
        Sample::today(extracted),
        Sample::today(nothing).case("least"),
        Sample::today(E::Trashed { project: id(0x31), size: 5_000_000_017 }),
        Sample::today(restored(Some(Awaited { stage: Stage::Scan, attempt: 2 }))),
        Sample::today(restored(None)).case("least"),
        Sample::today(E::Purged { project: id(0x31), size: 5_000_000_017, blobs: vec!["files/0a0b".to_owned()] }),
    ]
}

fn persisted_operations() -> Vec<Sample> {
    use PersistedOperationEvent as E;
    let published = |hash: &str, body: &str, name: Option<&str>, kind| E::Published {
        organization: organization(),
        hash: OperationHash::parse(hash).unwrap(),
        body: OperationBody::parse(body).unwrap(),
        name: name.map(|name| OperationName::parse(name).unwrap()),
        kind,
    };
    let query = "query Names {\n  projects { nodes { name } } # “all”\n}\n";
    vec![
        Sample::today(published(&"0d".repeat(32), query, Some("Names"), OperationKind::Query)),
        Sample::today(published("x-build:7", "mutation{logout{position}}", None, OperationKind::Mutation))
            .case("least"),
        Sample::today(published("live", "subscription{live{__typename}}", None, OperationKind::Subscription))
            .case("subscription"),
        Sample::today(E::Retired),
    ]
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn roles() -> Vec<Sample> {
    use RoleEvent as E;
    let (name, description) = (RoleTitle::parse("Auditors").unwrap(), RoleDescription::parse("They “read”.").unwrap());
    let permissions = vec![pattern("documents:view"), pattern("members:*:own")];
    let (changed, nothing) = (RoleTitle::parse("Readers").unwrap(), RoleDescription::default());
    let created = E::Created {
        organization: organization(),
        name,
        description,
        permissions,
        operations: Some(OperationsMode::Registered),
    };
    vec![
        Sample::today(created),
        Sample::today(E::Changed { name: changed, description: nothing, permissions: vec![], operations: None }),
        Sample::today(E::Deleted),
    ]
}

fn api_keys() -> Vec<Sample> {
    use ApiKeyEvent as E;
    let created = |expires_at, operations, rate_limit| E::Created {
        organization: organization(),
        owner: member(21),
        name: ApiKeyName::parse("Nightly “build”").unwrap(),
        scopes: vec![pattern("documents:view"), pattern("operations:*")],
        secret_hash: "0d".repeat(32),
        hint: "w4kq".to_owned(),
        expires_at,
        operations,
        rate_limit,
    };
    vec![
        Sample::today(created(Some(at(3_600)), Some(OperationsMode::Warn), Some(600))),
        Sample::today(created(None, None, None)).case("least"),
        Sample::today(created(None, Some(OperationsMode::Open), None)).case("open"),
        Sample::today(E::Changed {
            name: ApiKeyName::parse("Daily build").unwrap(),
            scopes: vec![pattern("documents:view")],
            expires_at: Some(at(7_200)),
        }),
        Sample::today(E::Rotated { secret_hash: "0e".repeat(32), hint: "7mzd".to_owned(), previous_until: at(7_200) }),
        Sample::today(E::Revoked),
    ]
}

fn identity_providers() -> Vec<Sample> {
    use IdentityProviderEvent as E;
    let least = serde_json::json!({
        "name": "Company account", "client_id": "oriel", "scopes": ["openid"],
        "redirect_uris": ["https://app.example.org/signed-in"], "enabled": true, "role_mappings": [],
        "default_roles": [], "provisions": false, "email_domains": [], "trusts_email": false, "ceiling": [],
    });
    let least: Settings = serde_json::from_value(least).unwrap();
    let whole = serde_json::json!({
        "name": "Company “account”", "client_id": "oriel", "scopes": ["openid", "email"],
        "redirect_uris": ["https://app.example.org/signed-in"], "enabled": false, "roles_claim": "realm_access.roles",
        "role_mappings": [{ "value": "staff", "role": "member" }, { "value": "audit", "role": Role::Custom(id(0x41)) }],
        "default_roles": ["viewer"], "provisions": true, "email_domains": ["example.org"], "trusts_email": true,
        "ceiling": ["documents:*", "providers:manage"],
    });
    let whole: Settings = serde_json::from_value(whole).unwrap();
    let created = |client_secret, settings| E::Created {
        organization: organization(),
        issuer: Issuer::parse("https://id.example.org/realms/one").unwrap(),
        client_secret,
        settings,
    };
    let sealed = || Some(SealedSecret::new(b"sealed"));
    vec![
        Sample::today(created(sealed(), whole.clone())),
        Sample::today(created(None, least)).case("least"),
        Sample::today(E::Changed { settings: whole }),
        Sample::today(E::SecretChanged { client_secret: sealed() }),
        Sample::today(E::SecretChanged { client_secret: None }).case("none"),
        Sample::today(E::Deleted),
    ]
}

fn identities() -> Vec<Sample> {
    use IdentityEvent as E;
    let linked = |email: Option<&str>| E::Linked {
        organization: organization(),
        provider: id(0x51),
        user: user(11),
        subject: said("248289761001"),
        subject_hash: "hash-of-248289761001".to_owned(),
        email: email.map(said),
    };
    vec![
        Sample::today(linked(Some("ada@example.org"))),
        Sample::today(linked(None)).case("least"),
        Sample::today(E::Unlinked),
    ]
}
