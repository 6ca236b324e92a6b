//! A person is erased, an organisation ends: their keys are destroyed on every node, what was made of them goes, and no
//! replay brings it back.

use oriel_kernel::{Effect, ErrorCode, Personal};

use super::things::{Happen, Make, Thing};
use super::*;
use crate::rebuild::unwatched;

/// Lets something happen to the thing with this id, which is made if it is not there.
async fn happen(engine: &Engine, organization: OrganizationId, id: Uuid, what: Vec<ThingEvent>) -> Committed {
    let id = ThingId::from_uuid(id);
    if engine.state::<Thing>(id).await.unwrap() == Thing::default() {
        // By somebody whom nothing happens to.
        let make = Make { label: id.to_string(), owner: person(2), name: "Grace Hopper" };
        engine.execute(&context(engine, organization), id, make).await.unwrap();
    }
    engine.execute(&context(engine, organization), id, Happen(what)).await.unwrap()
}

/// Destroys the data key with this id, by an event of the thing with this id.
pub async fn forget(engine: &Engine, organization: OrganizationId, id: Uuid) {
    happen(engine, organization, id, vec![ThingEvent::Forgotten]).await;
}

async fn write_about(engine: &Engine, organization: OrganizationId, owner: UserId) -> Result<ThingId, CommandError> {
    let id: ThingId = engine.new_id();
    let make = Make { label: id.to_string(), owner, name: "Ada Lovelace" };
    engine.execute(&context(engine, organization), id, make).await.map(|_| id)
}

fn is_not_found(outcome: Result<ThingId, CommandError>) -> bool {
    matches!(outcome, Err(CommandError::Rejected(error)) if error.code == ErrorCode::NotFound)
}

/// What the log says about the owners of these things.
async fn owners(engine: &Engine, things: &[ThingId]) -> Vec<Personal<String>> {
    let mut owners = Vec::new();
    for thing in things {
        let history = engine.log().read_subject(thing.uuid()).await.unwrap();
        match history[0].event_as::<ThingEvent>() {
            Some(ThingEvent::Made { owner, .. }) => owners.push(owner.clone()),
            other => panic!("{other:?}"),
        }
    }
    owners
}

async fn is_whole(engine: &Engine) {
    assert_eq!(engine.log().verify().await.unwrap(), None);
    let verified = engine.verify("toys").await.unwrap();
    assert_eq!((verified.only_running, verified.only_replayed), (0, 0), "{verified:?}");
    let grown = rows(engine).await;
    engine.rebuild("toys", &unwatched).await.unwrap();
    assert_eq!(rows(engine).await, grown);
}

on_both! {
    async fn a_person_is_erased_on_every_node_and_what_was_made_of_them_is_made_anew(place) {
        let engine = place.engine().await;
        let other = if engine.shared_with_other_nodes() { place.engine().await } else { Arc::clone(&engine) };
        let mut theirs = Vec::new();
        for n in 0..60 {
            theirs.push(write_about(&engine, org(n % 3), person(1)).await.unwrap());
        }
        let kept = write_about(&engine, org(1), person(3)).await.unwrap();
        other.feed().catch_up().await.unwrap();
        let clear = Personal::new(person(1), "Ada Lovelace".to_owned());
        assert_eq!(owners(&other, &theirs[..1]).await, std::slice::from_ref(&clear), "the other node has the key at hand");
        let before = rows(&engine).await;

        let since = engine.tracker().tick();
        let opened = crate::read::Dependency::named(crate::keyring::ANY_KEY);
        forget(&engine, org(1), person(1).uuid()).await;
        assert!(!engine.tracker().valid(since, [&opened]), "whoever shows opened payloads is told");
        // One that has not heard of it yet, too.
        assert!(is_not_found(write_about(&other, org(2), person(1)).await));
        assert!(is_not_found(write_about(&engine, org(2), person(1)).await));
        other.feed().catch_up().await.unwrap();
        for node in [&engine, &other] {
            assert!(owners(node, &theirs).await.iter().all(|owner| *owner == Personal::Erased { of: person(1) }));
            assert_eq!(owners(node, &[kept]).await, [Personal::new(person(3), "Ada Lovelace".to_owned())]);
        }

        let (head, _) = engine.log().head().await.unwrap();
        let about = engine.about(person(1), head).await.unwrap();
        assert_eq!(about, theirs.iter().map(|thing| thing.uuid()).collect());
        let about: Vec<Uuid> = about.into_iter().collect();
        let anew = about.chunks(Effect::MOST).map(|subjects| ThingEvent::MadeAnew { subjects: subjects.to_vec() });
        let since = engine.tracker().tick();
        happen(&engine, org(1), person(1).uuid(), anew.collect()).await;
        let list = Model::in_org(org(2)).dependency();
        assert!(!engine.tracker().valid(since, [&list]), "the lists that they are in were touched");
        let after = rows(&engine).await;
        for row in &after {
            let was = before.iter().find(|was| was.id == row.id);
            match was {
                Some(was) if theirs.contains(&row.id) => assert_eq!(*row, Model { owner: None, ..was.clone() }),
                Some(was) => assert_eq!(row, was),
                None => assert_eq!(row.id.uuid(), person(1).uuid()),
            }
        }
        assert_eq!(after.len(), before.len() + 1);
        is_whole(&engine).await;
    }

    /// What was removed in between does not come back, and what happens in the same batch counts.
    async fn made_anew_is_what_is_there(place) {
        let engine = place.engine().await;
        let (gone, stays) = (make(&engine, org(1), "gone").await, make(&engine, org(1), "stays").await);
        happen(&engine, org(1), Uuid::from_u128(0xabc), vec![ThingEvent::RowsRemoved { rows: vec![gone.uuid()] }]).await;
        forget(&engine, org(1), person(1).uuid()).await;
        let subjects = vec![gone.uuid(), stays.uuid()];
        let anew = vec![ThingEvent::Counted { by: 2 }, ThingEvent::MadeAnew { subjects }, ThingEvent::Counted { by: 3 }];
        happen(&engine, org(1), stays.uuid(), anew).await;
        let all = rows(&engine).await;
        let row = all.iter().find(|row| row.id == stays).unwrap();
        assert_eq!((row.owner.as_deref(), row.total, row.version), (None, 5, 4));
        assert!(!all.iter().any(|row| row.id == gone));
        is_whole(&engine).await;
    }

    async fn an_organisation_ends_and_nothing_of_it_is_left(place) {
        let engine = place.engine().await;
        let mut theirs = Vec::new();
        for _ in 0..120 {
            theirs.push(write_about(&engine, org(1), person(1)).await.unwrap());
        }
        let others = write_about(&engine, org(2), person(1)).await.unwrap();
        let ending = org(1).uuid();
        forget(&engine, org(1), ending).await;
        assert!(is_not_found(write_about(&engine, org(1), person(3)).await), "nothing more is written into it");
        assert!(count(&engine, org(1), theirs[0]).await.is_err());
        // The same person's data is readable where the organisation goes on.
        assert!(owners(&engine, &theirs).await.iter().all(|owner| *owner == Personal::Erased { of: person(1) }));
        assert_eq!(owners(&engine, &[others]).await, [Personal::new(person(1), "Ada Lovelace".to_owned())]);

        let mut steps = 0;
        while let Some((read_model, ids)) = engine.some_rows(org(1)).await.unwrap() {
            assert_eq!(read_model, "toys");
            happen(&engine, org(1), ending, vec![ThingEvent::RowsRemoved { rows: ids }]).await;
            steps += 1;
            if steps == 1 {
                // Halfway, a replay has the rows that are still there, and what is said in them is erased already.
                engine.rebuild("toys", &unwatched).await.unwrap();
                let left = rows(&engine).await;
                assert_eq!(left.iter().filter(|row| row.organization_id == org(1)).count(), 121 - Effect::MOST);
                assert_eq!(left.iter().filter(|row| row.owner.as_deref() == Some("Ada Lovelace")).count(), 1);
            }
        }
        assert_eq!(steps, 3, "121 rows, {} at once", Effect::MOST);
        let left: Vec<ThingId> = rows(&engine).await.into_iter().map(|row| row.id).collect();
        assert_eq!(left, [others]);
        let facts = number(&engine, "SELECT CAST(COUNT(*) AS BIGINT) FROM facts").await;
        engine.forget_facts(&[org(1)]).await.unwrap();
        engine.forget_facts(&theirs).await.unwrap();
        let after = number(&engine, "SELECT CAST(COUNT(*) AS BIGINT) FROM facts").await;
        assert_eq!(facts - after, 121 + 120, "their labels, and that they are there");
        is_whole(&engine).await;
        engine.stop().await;

        let engine = place.engine().await;
        assert!(is_not_found(write_about(&engine, org(1), person(3)).await), "after a restart, too");
        is_whole(&engine).await;
        assert!(write_about(&engine, org(2), person(1)).await.is_ok());
    }
}
