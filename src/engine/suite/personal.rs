//! Personal data: sealed in the log, erased with its key.

use oriel_kernel::Personal;

use super::things::{Make, Thing, ThingEvent};
use super::*;

on_both! {
    async fn it_is_sealed_and_can_be_forgotten(place) {
        let engine = place.engine().await;
        let forgotten = make(&engine, org(1), "a").await;
        let other: ThingId = engine.new_id();
        let command = Make { label: "b".to_owned(), owner: person(2), name: "Grace Hopper" };
        engine.execute(&context(&engine, org(1)), other, command).await.unwrap();

        let stored = engine.database().query("SELECT data FROM events", vec![]).await.unwrap();
        for row in &stored {
            let data = String::from_utf8(row.try_get::<Vec<u8>>("", "data").unwrap()).unwrap();
            assert!(!["Ada", "Lovelace", "Grace", "Hopper"].iter().any(|name| data.contains(name)), "{data}");
        }
        let owner = |event: &Recorded| match event.event_as::<ThingEvent>() {
            Some(ThingEvent::Made { owner, .. }) => owner.clone(),
            _ => panic!("not what was made"),
        };
        let clear = [Personal::new(person(1), "Ada Lovelace".to_owned()), Personal::new(person(2), "Grace Hopper".to_owned())];
        assert_eq!(whole_log(&engine).await.iter().map(|event| owner(event)).collect::<Vec<_>>(), clear);

        let nil = if engine.shared_with_other_nodes() {
            format!("UPDATE person_keys SET wrapped = NULL WHERE user_id = '{}'", person(1).uuid())
        } else {
            format!("UPDATE person_keys SET wrapped = NULL WHERE user_id = x'{}'", person(1).uuid().simple())
        };
        engine.database().writer().execute_unprepared(&nil).await.unwrap();
        engine.stop().await;

        let engine = place.engine().await;
        let erased = Personal::Erased { of: person(1) };
        assert_eq!(whole_log(&engine).await.iter().map(|event| owner(event)).collect::<Vec<_>>(), [erased.clone(), clear[1].clone()]);
        assert_eq!(engine.state::<Thing>(forgotten).await.unwrap().owner, Some(erased));
        engine.rebuild("toys", &crate::rebuild::unwatched).await.unwrap();
        let mut owners: Vec<Option<String>> = rows(&engine).await.into_iter().map(|row| row.owner).collect();
        owners.sort();
        assert_eq!(owners, [None, Some("Grace Hopper".to_owned())]);
        // The thing can still be changed; about the person nothing more can be said.
        count(&engine, org(1), forgotten).await.unwrap();
        let command = Make { label: "c".to_owned(), owner: person(1), name: "Ada Lovelace" };
        assert!(engine.execute(&context(&engine, org(1)), engine.new_id(), command).await.is_err());
    }
}
