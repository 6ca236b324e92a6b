//! The limits of filters, and values that no column can hold. What filters mean is tested with the pages.

use async_graphql::ID;

use super::*;

async fn count(db: &DatabaseConnection, filter: ThingFilter) -> Result<u64, ReadError> {
    reader(db).count_filtered::<Model>(Model::in_org(org(1)), Some(filter)).await
}

fn nested(levels: usize) -> ThingFilter {
    (1..levels)
        .fold(ThingFilter::default(), |inner, _| ThingFilter { not: Some(Box::new(inner)), ..Default::default() })
}

#[tokio::test]
async fn filters_are_bounded_and_say_by_what() {
    let db = sqlite().await;
    put(&db, (1..=3).map(thing)).await;
    let names = |n: usize| ThingFilter {
        name: Some(StringFilter { r#in: Some(vec!["thing 1".to_owned(); n]), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(count(&db, nested(8)).await, Ok(0)); // an odd number of times "not"
    assert_eq!(count(&db, nested(9)).await, Err(ReadError::limit("A filter may be nested 8 levels deep at most.")));
    assert_eq!(count(&db, names(500)).await, Ok(1));
    let refused = ReadError::limit("A list in a filter may hold 500 values at most; this has 501.");
    assert_eq!(count(&db, names(501)).await, Err(refused));
    let many = ThingFilter { or: Some(vec![names(500); 5]), ..Default::default() };
    assert_eq!(count(&db, many).await, Err(ReadError::limit("A filter may hold 2000 values at most.")));
    let broad = ThingFilter { or: Some(vec![names(1); 500]), ..Default::default() };
    assert_eq!(count(&db, broad).await, Ok(1));
    let long = StringFilter { contains: Some("ä".repeat(1_001)), ..Default::default() };
    let long = ThingFilter { name: Some(long), ..Default::default() };
    assert_eq!(count(&db, long).await.unwrap_err().code(), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn values_that_no_column_holds_are_refused() {
    let db = sqlite().await;
    let zero = StringFilter { starts_with: Some("a\0".into()), ..Default::default() };
    let zero = ThingFilter { name: Some(zero), ..Default::default() };
    assert_eq!(count(&db, zero).await.unwrap_err().code(), "BAD_REQUEST");
    let far =
        DateTimeFilter { lt: Some(DateTime::from_timestamp(8_000_000_000_000, 0).unwrap()), ..Default::default() };
    let far = ThingFilter { created_at: Some(far), ..Default::default() };
    assert_eq!(count(&db, far).await.unwrap_err().code(), "BAD_REQUEST");
}

#[tokio::test]
async fn an_id_of_another_kind_is_the_id_of_nothing() {
    let db = sqlite().await;
    put(&db, (1..=3).map(thing)).await;
    let on = |id: String| ThingFilter {
        shelf_id: Some(IdFilter { eq: Some(ID(id)), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(count(&db, on(shelf(1).to_string())).await, Ok(3));
    assert_eq!(count(&db, on(ThingId::from_uuid(uuid(1)).to_string())).await, Ok(0));
    assert_eq!(count(&db, on("nonsense".into())).await, Ok(0));
}
