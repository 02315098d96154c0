// Three classes from chains, and names that cannot be read.
void multiclass(TString folder)
{
   TChain *ttbar = new TChain("events");
   ttbar->Add("ttbar_1.root");
   ttbar->Add("ttbar_2.root");
   TChain qcd("events");
   qcd.Add("qcd.root");
   TFile *other = TFile::Open(folder + "/other.root");
   TMVA::DataLoader loader("dataset");
   loader.AddTree(ttbar, "ttbar", 1.0);
   loader.AddTree(&qcd, "qcd", 1.0, "n_jets >= 2");
   loader.AddTree((TTree*)other->Get("events"), "other");
   for (int step = 0; step <= 3; step++)
      loader.AddVariablesArray(TString::Format("jet%d", step), 5);
   loader.SetWeightExpression("weight", "ttbar");
   loader.AddCut("!(pt > 20) || eta < 2", "qcd");
   loader.PrepareTrainingAndTestTree("", "SplitMode=Random:SplitSeed=0");
   factory.BookMethod(&loader, TMVA::Types::kDL, "three ways/1",
                      "Layout=LSTM|6|5|4|0|1,GRU|7|6|4|0|1|1,RESHAPE|FLAT,LINEAR:"
                      "ErrorStrategy=MUTUALEXCLUSIVE:InputLayout=4|5");
}
