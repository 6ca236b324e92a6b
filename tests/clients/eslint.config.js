// The rules of graphql-eslint for schemas and for Relay, over the contract. Each exception with its reason.

import { readFileSync } from 'node:fs';
import plugin from '@graphql-eslint/eslint-plugin';

const schema = readFileSync(new URL('../../graphql.schema', import.meta.url), 'utf8');
const { configs, parser } = plugin;

/** What has no id because it is a value: it is told apart by what it says, or belongs to what it stands in. */
const values = {
  suffixes: [
    'Connection', // by the list that it is a page of
    'Edge', // by its cursor
    'Info', // by what it is about
    'Payload', // one in an answer
    'Result', // one in a payload
    'Stats', // by what it counts
    'Status', // by its name
  ],
  types: [
    'AccessExplanation', // one in an answer
    'AccessRecord', // by its time and its reader, in the access log
    'AccessRemoval', // one in its record
    'AccessGrant', // by its permission and source, in an explanation
    'CacheInvalidation', // by its cause
    'CleanedStore', // by its name, in a certificate
    'Consumer', // by its name
    'DocumentRelease', // one at most, of its document
    'DocumentRevision', // by its number, in its document
    'DocumentScan', // one at most, of its document
    'DocumentStage', // by its stage, in its document
    'AuditVerification', // what was found at one moment
    'AccessVerification', // the same
    'Erasure', // by what was erased
    'Feature', // by its key
    'FeatureOverride', // by its organization, in its feature
    'Facet', // by its field, in an answer
    'FieldChange', // by its field, in a state of the past
    'FacetValue', // by its value, in a facet
    'Highlight', // by its field, in an answer
    'HttpHeader', // by its name, in an answer
    'InstallationSettings', // there is one
    'KeyInventory', // there is one
    'MemberGrant', // by its permission, in its member
    'PastState', // by its position, in a past
    'Preferences', // a person has them once
    'ReadModelVerification', // one in a payload
    'RetentionKindReport', // by its kind, in a report
    'RetentionReport', // what was counted at one moment
    'RetentionSetting', // by its kind, in an organization
    'RoleMapping', // by its value, in its provider
    'SecondFactor', // a person has one
    'Suggestion', // by its text, in an answer
    'System', // there is one
    'SystemActor', // by its name
    'UploadPolicy', // there is one
    'UserError', // by its path, in a payload
    'Viewer', // there is one
  ],
};

export default [
  {
    files: ['**/*.schema'],
    plugins: { '@graphql-eslint': plugin },
    languageOptions: { parser, parserOptions: { graphQLConfig: { schema } } },
    rules: {
      ...configs['flat/schema-all'].rules,
      ...configs['flat/schema-relay'].rules,
      '@graphql-eslint/strict-id-in-types': ['error', { exceptions: values }],
      // Definitions and fields are sorted where the contract is written; arguments stand in the order of their weight.
      '@graphql-eslint/alphabetize': 'off',
      // There are mutations and subscriptions.
      '@graphql-eslint/no-root-type': 'off',
      // A payload has the object that was changed, and the position from which any later query sees the change.
      '@graphql-eslint/require-field-of-type-query-in-mutation-result': 'off',
      // What is found and the history of a file are read forwards only.
      '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],
      '@graphql-eslint/relay-edge-types': [
        'error',
        {
          withEdgeSuffix: true,
          // A revision has a number in its document and no id of its own; what is found is one of several types.
          shouldImplementNode: false,
          // Connections have `nodes` too, and what is few by its nature is a plain list.
          listTypeCanWrapOnlyEdgeType: false,
        },
      ],
    },
  },
];
