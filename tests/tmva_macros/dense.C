// Single variables, a dense network, weights and cuts, in the manner of ROOT's Higgs tutorial.
void dense(TString where)
{
   TFile f("higgs.root");
   TTree *signal = nullptr, *background = nullptr;
   f.GetObject("sig_tree", signal);
   f.GetObject("bkg_tree", background);

   auto loader = new TMVA::DataLoader("dataset");
   loader->AddVariable("m_jj");
   loader->AddVariable("m_jjj", 'F');
   loader->AddVariable("ratio := m_bb / m_wbb", "ratio of masses", "", 'F');
   loader->AddVariable("Sum$(jet_pt)");
   loader->AddSpectator("eventNumber");
   double weight = 0.5;
   loader->AddSignalTree(signal, weight);
   loader->AddBackgroundTree(background);
   loader->SetSignalWeightExpression("w_gen * w_pu");
   loader->SetBackgroundWeightExpression("w_gen");
   TCut quality = "m_jj > 0 && TMath::Abs(m_jjj) < 500";
   TCut extra = "m_bb^2 > 4";
   loader->PrepareTrainingAndTestTree(quality && extra, "nTrain_Signal=7000:nTrain_Background=6000:"
                                                        "nTest_Signal=1000:SplitMode=Alternate:NormMode=None:!V");

   TMVA::Factory factory("Higgs", outputFile, "!V");
   TString layoutString("Layout=DENSE|(N+2)*4|TANH,BNORM|0.9|0.001,DENSE|64|FTANH,LINEAR");
   TString phase1 = "LearningRate=1e-3,Momentum=0.9,ConvergenceSteps=10,BatchSize=128,TestRepetitions=1,"
                    "MaxEpochs=30,WeightDecay=1e-4,Regularization=L2,Optimizer=RMSPROP,DropConfig=0.0+0.5";
   TString phase2 = "LearningRate=1e-4,BatchSize=256,TestRepetitions=1,MaxEpochs=5,Optimizer=ADAGRAD";
   TString options = "!H:V:IgnoreNegWeightsInTraining:ErrorStrategy=CROSSENTROPY:VarTransform=G:ValidationSize=1300";
   options += ":" + layoutString + ":TrainingStrategy=" + phase1 + "|" + phase2;
   options += ":CreateMVAPdfs:Architecture=" + where;
   factory.BookMethod(loader, TMVA::Types::kDL, "DNN", options);
}
