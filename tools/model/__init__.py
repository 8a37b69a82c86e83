"""`make model`: the default model, from Debian's packages and a teacher."""
