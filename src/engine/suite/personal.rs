//! Personal data: sealed in the log, erased with its key.

use oriel_kernel::Personal;

use super::erasure::forget;
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
        let owners = |log: Vec<Arc<Recorded>>| -> Vec<_> {
            let owner = |event: &Arc<Recorded>| match event.event_as::<ThingEvent>() {
                Some(ThingEvent::Made { owner, .. }) => Some(owner.clone()),
                _ => None,
            };
            log.iter().filter_map(owner).take(2).collect()
        };
        let clear = [Personal::new(person(1), "Ada Lovelace".to_owned()), Personal::new(person(2), "Grace Hopper".to_owned())];
        assert_eq!(owners(whole_log(&engine).await), clear);

        forget(&engine, org(1), person(1).uuid()).await;
        engine.stop().await;

        let engine = place.engine().await;
        let erased = Personal::Erased { of: person(1) };
        assert_eq!(owners(whole_log(&engine).await), [erased.clone(), clear[1].clone()]);
        assert_eq!(engine.state::<Thing>(forgotten).await.unwrap().owner, Some(erased));
        engine.rebuild("toys", &crate::rebuild::unwatched).await.unwrap();
        let mut owners: Vec<Option<String>> = rows(&engine).await.into_iter().map(|row| row.owner).collect();
        owners.sort();
        assert_eq!(owners, [None, Some("Grace Hopper".to_owned()), Some("Grace Hopper".to_owned())]);
        // The thing can still be changed; about the person nothing more can be said.
        count(&engine, org(1), forgotten).await.unwrap();
        let command = Make { label: "c".to_owned(), owner: person(1), name: "Ada Lovelace" };
        assert!(engine.execute(&context(&engine, org(1)), engine.new_id(), command).await.is_err());
    }
}
