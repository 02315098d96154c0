inline Lanes weights_at(const real* w) { return load(w); }

