//! What a command is permitted by is looked at again when it is committed: here between the reading of the viewer and
//! the commit something happens to them.
#![allow(clippy::unwrap_used)]

use oriel_domain::documents::{DeleteDocument, DocumentId};
use oriel_domain::projects::{CreateProject, ProjectKey, ProjectName};
use oriel_domain::sessions::{EndReason, EndSession};
use oriel_engine::Committed;
use oriel_kernel::IdKind;
use serde_json::json;

use super::*;
use crate::documents::tests::{document, project};
use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN};

const CREATE: Access = Access::Permission(Permission::new("projects", "create"));
const EDIT: Access = Access::Permission(Permission::new("documents", "delete"));

/// A command of this person that may be carried out now, and is not yet.
async fn asked(bed: &Bed, who: &Person, access: Access) -> CommandContext {
    let engine = Arc::clone(&bed.endpoint.services().engine);
    let credential = bed.endpoint.authenticate(&who.access).unwrap().0;
    let row = viewer::resolve(engine.database().reader(), credential, engine.now()).await.unwrap().unwrap();
    let (viewer, now, command) = (row.viewer, engine.now(), engine.new_id());
    let operation = Operation { name: "projectCreate", root: Root::Mutation, access };
    let grant = operation.grant(Some(&viewer)).unwrap();
    CommandContext {
        may_repeat: false,
        actor: viewer.actor(),
        scope: scope(&viewer, grant),
        authority: Some(Arc::new(Asked { engine, credential, operation })),
        ..CommandContext::system(command, viewer.organization, now)
    }
}

/// Makes a project in this context.
async fn create(bed: &Bed, context: &CommandContext, key: &str) -> std::result::Result<Committed, CommandError> {
    let Actor::Member(owner) = context.actor else { panic!("{context:?}") };
    let (key, name) = (ProjectKey::parse(key).unwrap(), ProjectName::parse("Made").unwrap());
    let engine = &bed.endpoint.services().engine;
    engine.execute(context, engine.new_id(), CreateProject { key, name, description: None, owner }).await
}

/// The code of a refusal.
fn code(result: std::result::Result<Committed, CommandError>) -> ErrorCode {
    match result {
        Err(CommandError::Rejected(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

async fn roles(bed: &Bed, by: &Person, of: &Person, role: &str) {
    let input = json!({ "id": of.member, "roles": [role] });
    let payload = bed.mutate(Some(&by.access), "memberUpdate", input, "userErrors { code message path }").await;
    assert_eq!(Bed::problems(&payload), Vec::<String>::new());
}

fn id<K: IdKind>(text: &str) -> Id<K> {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_role_that_was_taken_away_is_not_used_any_more() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    // His first project, of which he becomes a member, does not stand in the way of the second.
    let (first, second) = (asked(&bed, &bob, CREATE).await, asked(&bed, &bob, CREATE).await);
    create(&bed, &first, "FIRST").await.unwrap();
    create(&bed, &second, "SECOND").await.unwrap();

    // Another role that allows it too: it is read anew, and goes on.
    let before = asked(&bed, &bob, CREATE).await;
    roles(&bed, &ada, &bob, "admin").await;
    create(&bed, &before, "FOURTH").await.unwrap();
    let before = asked(&bed, &bob, CREATE).await;
    roles(&bed, &ada, &bob, "viewer").await;
    assert_eq!(code(create(&bed, &before, "FIFTH").await), ErrorCode::Forbidden);
    // Who asks without an authority hears that it changed.
    let late = CommandContext { authority: None, ..before };
    let failure = Failure::from(create(&bed, &late, "FIFTH").await.unwrap_err());
    let Failure::Rejected(errors) = failure else { panic!("{failure:?}") };
    assert_eq!(
        (errors[0].code, errors[0].message.as_str()),
        (ErrorCode::Conflict, "Your permissions changed at this moment. Try again.")
    );
}

#[tokio::test]
async fn a_session_that_has_ended_commits_nothing() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let before = asked(&bed, &bob, CREATE).await;
    // What only goes on takes nothing away.
    let refreshed = bed.mutate(None, "sessionRefresh", json!({ "refreshToken": bob.refresh }), SIGNED_IN).await;
    assert_eq!(Bed::problems(&refreshed), Vec::<String>::new());
    create(&bed, &before, "FIRST").await.unwrap();

    // Ending the session is not refused by its own end; what was begun besides is.
    let (before, end) = (asked(&bed, &bob, CREATE).await, asked(&bed, &bob, Access::SignedIn).await);
    let (engine, session) = (&bed.endpoint.services().engine, bed.endpoint.authenticate(&bob.access).unwrap().0);
    let session = session.session().unwrap();
    engine.execute(&end, session, EndSession { reason: EndReason::SignedOut }).await.unwrap();
    let error = create(&bed, &before, "SECOND").await.unwrap_err();
    assert!(matches!(&error, CommandError::SignedOut), "{error}");
    let Failure::Error(shown) = Failure::from(error) else { panic!("not an error") };
    assert_eq!(shown.extensions.and_then(|e| e.get("code").cloned()), Some("UNAUTHENTICATED".into()));

    for (field, key) in [("memberSuspend", "THIRD"), ("memberRemove", "FOURTH")] {
        let login = json!({ "email": "bob@example.org", "password": PASSWORD });
        let bob = Person::of(&bed.mutate(None, "login", login, SIGNED_IN).await);
        let before = asked(&bed, &bob, CREATE).await;
        bed.mutate(Some(&ada.access), field, json!({ "id": bob.member }), "position").await;
        let error = create(&bed, &before, key).await.unwrap_err();
        assert!(matches!(&error, CommandError::SignedOut), "{field}: {error}");
        if field == "memberSuspend" {
            bed.mutate(Some(&ada.access), "memberReactivate", json!({ "id": bob.member }), "position").await;
        }
    }
}

#[tokio::test]
async fn who_was_taken_out_of_a_project_changes_nothing_in_it() {
    let bed = Bed::new().await;
    let ada = bed.register("Engines", "ada@example.org").await;
    let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
    let atlas = project(&bed, &ada, "ATLAS").await;
    let other = project(&bed, &ada, "OTHER").await;
    for project in [&atlas, &other] {
        let input = json!({ "id": project, "memberId": bob.member });
        bed.mutate(Some(&ada.access), "projectMemberAdd", input, "position").await;
    }
    let documents =
        [document(&bed, &bob, &atlas, "one.txt", "One.").await, document(&bed, &bob, &other, "two.txt", "Two.").await];
    let documents = documents.map(|document| id(&document));
    let engine = &bed.endpoint.services().engine;
    let delete = async |context: &CommandContext, document: DocumentId| {
        let context = CommandContext { command: engine.new_id(), ..context.clone() };
        engine.execute(&context, document, DeleteDocument).await
    };
    let before = asked(&bed, &bob, EDIT).await;
    let input = json!({ "id": atlas, "memberId": bob.member });
    bed.mutate(Some(&ada.access), "projectMemberRemove", input, "position").await;
    // Read anew, the document looks absent; in the other project nothing has changed.
    assert_eq!(code(delete(&before, documents[0]).await), ErrorCode::NotFound);
    delete(&before, documents[1]).await.unwrap();
    // Without that it is refused all the same.
    let late = CommandContext { authority: None, ..before };
    assert!(matches!(delete(&late, documents[0]).await, Err(CommandError::Stale)));
}

#[tokio::test]
async fn each_change_of_a_request_shows_what_it_left_behind() {
    let bed = Bed::new().await;
    let owner = bed.register("Acme", "ada@example.org").await;
    let shared = project(&bed, &owner, "SHARED").await;
    let mut variables = json!({});
    for name in ["a", "b"] {
        let member = bed.join(&owner, &format!("{name}@example.org"), &["viewer"]).await.member;
        variables[name] = json!({ "id": shared, "memberId": member });
    }
    let query = "mutation($a: ProjectMemberAddInput!, $b: ProjectMemberAddInput!) {
        a: projectMemberAdd(input: $a) { ...After } b: projectMemberAdd(input: $b) { ...After } }
        fragment After on ProjectPayload { project { memberCount members { totalCount nodes { addedAt } } } }";
    let answer = bed.ask(Some(&owner.access), query, variables).await;
    for (name, expected) in [("a", 2), ("b", 3)] {
        let after = &answer["data"][name]["project"];
        let shown = after["members"]["nodes"].as_array().map(Vec::len);
        let counts = [&after["memberCount"], &after["members"]["totalCount"]];
        assert_eq!((counts, shown), ([&json!(expected); 2], Some(expected)), "{answer}");
    }
}
