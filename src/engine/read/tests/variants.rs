//! What else the derive takes: rows of one person, a scope of one's own, no filter and no order, names that Rust has
//! taken.

use super::*;

mod slip {
    //! What one person has written down, for nobody else.

    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, ReadModel)]
    #[sea_orm(table_name = "slips")]
    #[read_model(name = "Slip", kind = "slip", owner = "user_id", collections(user = "user_id"))]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub user_id: UserId,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

mod sign {
    //! What everybody sees but for the person that it is about.

    use super::*;
    use sea_orm::{Condition, DbBackend};

    /// A sign.
    #[derive(Clone, PartialEq, Eq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
    #[sea_orm(table_name = "signs")]
    #[graphql(name = "Sign")]
    #[read_model(kind = "sign", scope = about_others)]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub about: UserId,
        #[read_model(filter, order)]
        pub r#type: String,
        #[read_model(filter)]
        pub state: Option<ThingState>,
    }

    fn about_others(viewer: &Viewer, _: DbBackend) -> Condition {
        Condition::all().add(Column::About.ne(viewer.user))
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::test]
async fn rows_of_one_person_are_theirs_alone() {
    let db = sqlite().await;
    db.execute(&Schema::new(db.get_database_backend()).create_table_from_entity(slip::Entity)).await.unwrap();
    let user = |n| UserId::from_uuid(uuid(n));
    let slips =
        [(1, 7), (2, 7), (3, 6)].map(|(id, of)| slip::Model { id: uuid(id), user_id: user(of) }.into_active_model());
    slip::Entity::insert_many(slips).exec_without_returning(&db).await.unwrap();
    let reader = reader(&db); // of person 7
    let page =
        reader.page(slip::Model::in_user(user(7)), PageArgs::new(Some(1), None, None, None), None, None).unwrap();
    assert_eq!((page.rows().await.unwrap()[0].id, page.total_count().await), (uuid(1), Ok(2)));
    assert_eq!(reader.count(slip::Model::in_user(user(6))).await, Ok(0));
    assert_eq!(reader.get::<slip::Model>(uuid(3)).await, Ok(None));
    assert!(reader.get::<slip::Model>(uuid(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_scope_and_a_filter_of_any_shape() {
    let db = sqlite().await;
    db.execute(&Schema::new(db.get_database_backend()).create_table_from_entity(sign::Entity)).await.unwrap();
    let sign = |(id, about, state)| sign::Model {
        id: uuid(id),
        about: UserId::from_uuid(uuid(about)),
        r#type: "t".into(),
        state,
    };
    let lost = Some(ThingState::Lost);
    let signs = [(1, 1, None), (2, 2, lost), (3, 3, Some(ThingState::There)), (4, 7, None)]
        .map(|s| sign(s).into_active_model());
    sign::Entity::insert_many(signs).exec_without_returning(&db).await.unwrap();
    let reader = reader(&db);
    for n in 1..=4 {
        assert_eq!(reader.get::<sign::Model>(uuid(n)).await.unwrap().is_some(), n != 4);
    }
    let ne_lost = EnumFilter { ne: lost, eq: None, r#in: None };
    let is_t = StringFilter { eq: Some("t".into()), ..Default::default() };
    let filter = sign::SignFilter { r#type: Some(is_t), state: Some(ne_lost), ..Default::default() };
    for (n, expected) in [(1, 1), (2, 0), (3, 1), (4, 0)] {
        let one = Collection::<sign::Model>::new("self", sign::Column::Id, uuid(n));
        assert_eq!(reader.count_filtered(one, Some(filter.clone())).await, Ok(expected), "{n}");
    }
}
