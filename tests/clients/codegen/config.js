// What graphql-codegen is told: the client preset, strict about scalars, so that a new one has to be named here.

export default {
  schema: 'codegen/__generated__/schema.graphql',
  documents: ['codegen/app.ts'],
  generates: {
    'codegen/__generated__/': {
      preset: 'client',
      config: {
        strictScalars: true,
        useTypeImports: true,
        enumsAsTypes: true,
        scalars: {
          ByteSize: 'number',
          DateTime: 'string',
          JSON: 'unknown',
          Position: 'string',
          Upload: 'File',
        },
      },
    },
  },
};
