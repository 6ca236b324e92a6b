//! Streams that are reserved first: server-sent events on a single connection.

use super::*;

const WATCH: &str = "subscription { events { id } }";

/// A reserved stream; its token.
async fn reserve(bed: &Bed) -> String {
    let reserved = bed.send(with(Request::put("/graphql"), &[], Body::empty())).await;
    assert_eq!(reserved.status, 201);
    reserved.text()
}

/// Begins an operation; the status.
async fn begin(bed: &Bed, token: &str, id: &str) -> u16 {
    let body = json!({ "query": WATCH, "extensions": { "operationId": id } });
    bed.post(&[("x-graphql-event-stream-token", token)], body.to_string()).await.status.as_u16()
}

#[tokio::test]
async fn a_stream_that_nobody_connects_to_gives_its_place_back() {
    let clocks = Clocks { init: Duration::from_millis(50), ..Clocks::USUAL };
    let bed = Bed::with(settings(&[]), Beds { clocks, ..Beds::default() }).await;
    let token = reserve(&bed).await;
    assert_eq!(bed.state.places.held(), 1);
    let forgotten = async {
        while begin(&bed, &token, "one").await != 404 {
            tokio::task::yield_now().await; // nothing that it asks waits for anything
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.unwrap();
    assert_eq!(bed.state.places.held(), 0);
}

#[tokio::test]
async fn a_stream_ends_with_its_connection_and_holds_so_many_operations() {
    let bed = Bed::set(&[("max_operations_per_socket", "2")]).await;
    let token = reserve(&bed).await;
    let begun = [begin(&bed, &token, "one").await, begin(&bed, &token, "two").await, begin(&bed, &token, "3").await];
    assert_eq!(begun, [202, 202, 400]);
    let ended = format!("/graphql?operationId=one&token={token}");
    assert_eq!(bed.send(with(Request::delete(&ended), &[], Body::empty())).await.status, 200);
    assert_eq!(begin(&bed, &token, "two").await, 409);

    let connect =
        with(Request::get(format!("/graphql?token={token}")), &[("accept", "text/event-stream")], Body::empty());
    let connected = bed.router.clone().oneshot(connect).await.unwrap();
    assert_eq!((connected.status().as_u16(), bed.state.places.held()), (200, 1));
    drop(connected);
    assert_eq!((begin(&bed, &token, "one").await, bed.state.places.held()), (404, 0));
}
