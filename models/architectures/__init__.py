"""A file a family, an entry a model: builder, closed formula, data, floor."""
