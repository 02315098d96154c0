// Methods, but no network.
void no_network()
{
   factory->BookMethod(loader, TMVA::Types::kBDT, "BDT", "!V:NTrees=200:MinNodeSize=2.5%");
   factory->BookMethod(loader, TMVA::Types::kMLP, "MLP", "!V:HiddenLayers=N+5");
}
